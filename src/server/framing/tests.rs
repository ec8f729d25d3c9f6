use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, lines: 20 };

fn vet_lines(text: &str) -> Result<Framing, Refusal> {
    vet(text.replace('\n', "\r\n").as_bytes(), LIMITS)
}

#[test]
fn framing_is_what_the_head_says_and_nothing_else() {
    assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\n\n"), Ok(Framing::Length(0)));
    assert_eq!(vet_lines("GET / HTTP/1.0\n\n"), Ok(Framing::Length(0)));
    assert_eq!(vet_lines("POST / HTTP/1.1\nhost: a\ncontent-length: 10\n\n"), Ok(Framing::Length(10)));
    assert_eq!(vet_lines("POST / HTTP/1.1\nhost: a\nTransfer-Encoding: Chunked\n\n"), Ok(Framing::Chunked));
    assert_eq!(vet_lines("GET http://a/b HTTP/1.1\nHost: a\n\n"), Ok(Framing::Length(0)));
    assert_eq!(vet_lines("OPTIONS * HTTP/1.1\nHost: a\n\n"), Ok(Framing::Length(0)));
}

#[test]
fn every_refusal_has_its_reason() {
    let post = |lines: &str| vet_lines(&format!("POST / HTTP/1.1\nHost: a\n{lines}\n\n"));
    let malformed = |reason| Err(Refusal::Malformed(reason));
    assert_eq!(post("Content-Length: 6\nTransfer-Encoding: chunked"), malformed("length_and_coding"));
    assert_eq!(post("Content-Length: 6\nContent-Length: 6"), Err(Refusal::Ambiguous("content-length")));
    assert_eq!(post("Host: b"), Err(Refusal::Ambiguous("host")));
    assert_eq!(
        post("Transfer-Encoding: chunked\nTransfer-Encoding: chunked"),
        Err(Refusal::Ambiguous("transfer-encoding"))
    );
    for value in ["", "+6", "-1", "6, 6", "0x6", "6 6", "99999999999999999999"] {
        assert_eq!(post(&format!("Content-Length: {value}")), malformed("content_length"), "{value}");
    }
    for value in ["gzip, chunked", "chunked, chunked", "identity", "chunked;q=1", "xchunked", ""] {
        assert_eq!(post(&format!("Transfer-Encoding: {value}")), malformed("transfer_encoding"), "{value}");
    }
    assert_eq!(vet_lines("POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n"), malformed("transfer_encoding"));
    assert_eq!(vet_lines("GET / HTTP/1.1\n\n"), malformed("host_missing"));
    assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\n: x\n\n"), malformed("header_name"));
    assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\nX : x\n\n"), malformed("header_name"));
    assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\nX: a\n b\n\n"), malformed("header_name"), "obs-fold");
    assert_eq!(vet_lines("GET / HTTP/1.1\nHost: a\nX: a\0b\n\n"), malformed("header_value"));
    assert_eq!(vet_lines("GET / HTTP/2.0\nHost: a\n\n"), malformed("version"));
    assert_eq!(vet_lines("GET  / HTTP/1.1\nHost: a\n\n"), malformed("request_line"));
    assert_eq!(vet_lines("get / HTTP/1.1\nHost: a\n\n"), malformed("method"));
    assert_eq!(vet_lines("GET /admin#.png HTTP/1.1\nHost: a\n\n"), malformed("fragment"));
    assert_eq!(vet_lines("GET admin HTTP/1.1\nHost: a\n\n"), malformed("target"));
    assert_eq!(vet_lines("GET * HTTP/1.1\nHost: a\n\n"), malformed("target"));
    assert_eq!(vet_lines("GET ftp://a/ HTTP/1.1\nHost: a\n\n"), malformed("target"));
    for target in ["/<", "/a`", "/a?\"", "http://", "http:///a", "http://[::1/a"] {
        assert_eq!(vet_lines(&format!("GET {target} HTTP/1.1\nHost: a\n\n")), malformed("target"), "{target}");
    }
    assert_eq!(vet(b"GET / HTTP/1.1\nHost: a\r\n\r\n", LIMITS), malformed("bare_lf"));
    let wide = HeadLimits { bytes: 100_000, lines: 20 };
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
    assert_eq!(vet(long.as_bytes(), wide), Err(Refusal::TargetTooLong));
    assert_eq!(vet_lines(&format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(20))), Err(Refusal::HeadTooLarge));
    assert_eq!(vet_lines(&format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(300))), Err(Refusal::HeadTooLarge));
    assert_eq!(post(&format!("X: {}", "y".repeat(4096))), Err(Refusal::HeadTooLarge));
}

#[test]
fn a_refusal_keeps_what_came_before_it() {
    let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = [&good[..], b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let mut tracker = Tracker::new(LIMITS);
    assert_eq!(tracker.feed(&both), Err((good.len(), Refusal::Malformed("fragment"))));
    assert!(!tracker.in_body());
}

#[test]
fn empty_lines_before_a_request_are_skipped_however_they_arrive() {
    let stream = b"\r\n\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for size in 1..stream.len() {
        let mut tracker = Tracker::new(LIMITS);
        for piece in stream.chunks(size) {
            assert_eq!(tracker.feed(piece), Ok(()), "in pieces of {size}");
        }
    }
    for size in 1..3 {
        let mut tracker = Tracker::new(LIMITS);
        let refused = b"\rGET ".chunks(size).find_map(|piece| tracker.feed(piece).err());
        assert_eq!(refused, Some((0, Refusal::Malformed("line_end"))), "hyper would refuse it without a word");
    }
}

#[test]
fn a_head_is_refused_at_its_first_piece_where_hyper_would_refuse_it() {
    for (piece, reason) in [
        (&b"GET / HTTP/1.1\r\nHo/t: a\r\nX: "[..], "header_name"),
        (b"GET /\x0b", "request_line"),
        (b"GET / HTTP/1.3\r", "version"),
    ] {
        assert_eq!(Tracker::new(LIMITS).feed(piece), Err((0, Refusal::Malformed(reason))));
    }
}

#[test]
fn there_may_not_be_many_empty_lines() {
    for empty in ["\n", "\r\n"] {
        let mut tracker = Tracker::new(LIMITS);
        assert_eq!(tracker.feed(empty.repeat(32).as_bytes()), Ok(()));
        assert_eq!(tracker.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(()));
        assert_eq!(tracker.feed(empty.repeat(32).as_bytes()), Ok(()), "each head has its own");
        assert_eq!(tracker.feed(empty.as_bytes()), Err((0, Refusal::Malformed("empty_lines"))));
    }
}

#[test]
fn too_many_lines_are_refused_before_the_head_ends() {
    let lines = "x: y\r\n".repeat(LIMITS.lines + 1);
    let head = format!("GET / HTTP/1.1\r\n{lines}");
    assert_eq!(Tracker::new(LIMITS).feed(head.as_bytes()), Err((0, Refusal::HeadTooLarge)));
}

#[test]
fn a_head_that_never_ends_is_too_large() {
    let mut tracker = Tracker::new(LIMITS);
    let outcome = (0..5000).map(|_| tracker.feed(b"x")).find(Result::is_err);
    assert_eq!(outcome, Some(Err((0, Refusal::TargetTooLong))));
    let mut tracker = Tracker::new(LIMITS);
    tracker.feed(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let outcome = (0..5000).map(|_| tracker.feed(b"x")).find(Result::is_err);
    assert_eq!(outcome, Some(Err((0, Refusal::HeadTooLarge))));
}

#[test]
fn chunked_bodies_are_strict() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let feed =
        |body: &str| Tracker::new(LIMITS).feed(format!("{head}{body}GET / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    for fine in [
        "0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "3;a=b\r\nabc\r\n0\r\nX: y\r\nZ: w\r\n\r\n",
        "00A\r\n0123456789\r\n000\r\n\r\n",
    ] {
        assert_eq!(feed(fine), Ok(()), "{fine:?}");
    }
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
    let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000));
    for bad in [
        "3\nabc\r\n0\r\n\r\n",
        "\r\n",
        "g\r\n",
        "3 \r\nabc\r\n",
        "-1\r\n",
        "3\r\nabcd\r\n",
        "11111111111111111\r\n",
        ";x\r\n",
        "3;a\x01\r\nabc\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nGET / HTTP/1.1\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\r\n folded\r\n\r\n",
        "0\r\nX\r\n\r\n",
        &"0\r\n".chars().chain("a:\r\n".repeat(300).chars()).collect::<String>(),
        &long,
        &trailers,
    ] {
        assert!(matches!(feed(bad), Err((_, Refusal::Malformed("chunk")))), "{bad:?}");
    }
}

/// A request that the tracker accepts, with the number of its bytes.
fn request() -> impl Strategy<Value = String> {
    let chunk = ("[0-9a-z]{1,20}", prop_oneof![Just(""), Just(";x=y")])
        .prop_map(|(data, ext)| format!("{:x}{ext}\r\n{data}\r\n", data.len()));
    prop_oneof![
        Just("GET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        "[a-z\r\n]{1,40}".prop_map(|b| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{b}", b.len())),
        proptest::collection::vec(chunk, 0..4).prop_map(|chunks| format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\nA: b\r\n\r\n",
            chunks.concat()
        )),
    ]
}

proptest! {
    #[test]
    fn boundaries_do_not_depend_on_how_the_bytes_arrive(requests in proptest::collection::vec(request(), 1..5), cuts in proptest::collection::vec(1usize..30, 1..40)) {
        let stream = requests.concat() + "GET /#refused HTTP/1.1\r\nHost: a\r\n\r\n";
        let last = stream.len() - "GET /#refused HTTP/1.1\r\nHost: a\r\n\r\n".len();
        let mut tracker = Tracker::new(LIMITS);
        let (mut position, mut cuts, mut refused) = (0, cuts.iter().cycle(), false);
        while position < stream.len() {
            let end = (position + cuts.next().unwrap()).min(stream.len());
            if let Err((good, refusal)) = tracker.feed(&stream.as_bytes()[position..end]) {
                prop_assert_eq!(refusal, Refusal::Malformed("fragment"));
                prop_assert!(position + good >= last, "refused at {} instead of after {}", position + good, last);
                refused = true;
                break;
            }
            position = end;
        }
        prop_assert!(refused, "the offense must be found at the right boundary");
    }

    #[test]
    fn a_target_that_is_accepted_is_one_for_hyper(target in "(/|http://|https://a|HTTP://[::1]|\\*)?[ -~]{0,12}", method in "GET|OPTIONS|CONNECT") {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        if vet(head.as_bytes(), LIMITS).is_ok() {
            prop_assert!(target.parse::<http::Uri>().is_ok(), "{}", target);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut tracker = Tracker::new(LIMITS);
        if let Err((good, _)) = tracker.feed(&bytes) {
            prop_assert!(good <= bytes.len());
        }
    }

    #[test]
    fn a_chunk_size_that_is_accepted_is_what_the_parser_of_hyper_reads(line in "[0-9a-fA-F;= \r\n]{1,20}") {
        let text = format!("{line}\r\n");
        let mut state = State::Chunked(Chunk::Size { size: 0, digits: 0 });
        for (index, byte) in text.bytes().enumerate() {
            let State::Chunked(chunk) = state else { break };
            match next_chunk_state(chunk, byte) {
                None => break,
                Some(State::Chunked(Chunk::Data { left })) => {
                    prop_assert_eq!(httparse::parse_chunk_size(text.as_bytes()), Ok(httparse::Status::Complete((index + 1, left))));
                    break;
                }
                Some(State::Chunked(Chunk::Trailer { .. })) => {
                    prop_assert_eq!(httparse::parse_chunk_size(text.as_bytes()), Ok(httparse::Status::Complete((index + 1, 0))));
                    break;
                }
                Some(next) => state = next,
            }
        }
    }
}
