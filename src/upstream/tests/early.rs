//! Servers that say more, or earlier, than they were asked for.

use http::Method;

use super::*;

/// How the server leaves.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// In order: the gateway may go on sending, and is told off.
    Close,
    /// With a reset.
    Reset,
}

/// A server that reads a piece of an upload, says this, and leaves before the client sends more.
async fn said_amid_the_upload(said: &str, leaving: Leaving) -> Result<(u16, Result<String, BodyError>), Error> {
    let script = Script::new();
    let gate = Gate::to(&script);
    let (client, body) = Sent::open(None);
    client.send(data("part")).unwrap();
    let (answer, ()) = tokio::join!(gate.forward(request(Method::PUT, &[], body)), async {
        let mut wire = script.accept().await;
        wire.until("part").await;
        wire.write(said).await;
        if matches!(leaving, Leaving::Reset) {
            wire.stream.set_zero_linger().unwrap();
        }
        drop(wire);
        // Nothing waits between the server's end and these pieces: the gateway writes before it knows.
        for _ in 0..3 {
            // The gateway may have given up on the upload by now.
            client.send(data("more")).unwrap_or_default();
            tokio::task::yield_now().await;
        }
    });
    script.assert_no_further_connection();
    let answer = answer?;
    let status = answer.status().as_u16();
    let body = read(answer).await.map(|(text, _)| text);
    assert_eq!((gate.connections_in("idle"), gate.connections_in("active")), (0, 0));
    Ok((status, body))
}

const REFUSED: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno";

#[test]
fn an_answer_before_the_end_of_the_upload_arrives_although_the_server_has_left() {
    on_worker(async {
        for leaving in [Leaving::Close, Leaving::Reset] {
            for said in [
                REFUSED,
                &format!("{REFUSED}!"),
                "HTTP/1.1 413 Too Large\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
            ] {
                let (status, body) = said_amid_the_upload(said, leaving).await.unwrap();
                assert_eq!((status, body.as_deref()), (413, Ok("no")), "{leaving:?} {said:?}");
            }
        }
    });
}

#[test]
fn an_answer_that_lasts_until_the_end_is_whole_only_if_the_end_came_in_order() {
    on_worker(async {
        let said = "HTTP/1.1 413 Too Large\r\n\r\nno";
        let (_, body) = said_amid_the_upload(said, Leaving::Close).await.unwrap();
        assert_eq!(body.as_deref(), Ok("no"));
        let (_, body) = said_amid_the_upload(said, Leaving::Reset).await.unwrap();
        assert_eq!(body, Err(BodyError::Upstream));
        let (_, body) = said_amid_the_upload("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno", Leaving::Close)
            .await
            .unwrap();
        assert_eq!(body, Err(BodyError::Upstream));
    });
}

#[test]
fn a_server_that_leaves_amid_the_upload_without_an_answer_has_closed() {
    on_worker(async {
        for leaving in [Leaving::Close, Leaving::Reset] {
            for said in ["", "HTTP/1.1 413 Too", "HTTP/1.1 100 Continue\r\n\r\n"] {
                let error = said_amid_the_upload(said, leaving).await.unwrap_err();
                assert!(matches!(error, Error::Closed(_)), "{leaving:?} {said:?}: {error:?}");
            }
        }
    });
}

#[test]
fn what_came_on_a_rested_connection_is_never_read_as_an_answer() {
    on_worker(async {
        for said in ["HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned", "\r\n"] {
            let script = Script::new();
            let gate = Gate::to(&script);
            let mut wire = first_exchange(&gate, &script).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            // Nothing waits in between: the kernel has these bytes, and nobody was told.
            wire.write(said).await;
            let second = first_exchange(&gate, &script).await;
            assert_eq!(wire.closed().await, "", "nothing was sent on the connection with the surplus");
            assert_eq!(gate.timing.borrow().retries, 0);
            // The end of a connection is seen in the same way.
            tokio::time::sleep(Duration::from_millis(2)).await;
            drop(second);
            first_exchange(&gate, &script).await;
            assert_eq!(gate.timing.borrow().retries, 0);
        }
    });
}
