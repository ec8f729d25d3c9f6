//! The rules at the top of the module, against a scripted endpoint, in paused time: what takes
//! minutes here takes none to test, and happens in the same order every time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::StatusCode;
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep, timeout};

use super::super::testing::{self, NOW};
use super::fetch::FetchError;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// `wait` of an ordinary request.
const WAIT: Duration = Duration::from_secs(3);

/// The endpoint, as a test wants it at the moment.
struct Endpoint {
    /// The kids of the set; `None`: status 500.
    kids: Mutex<Option<Vec<String>>>,
    /// From the request to the answer. The answer is made up when the request comes.
    delay: Mutex<Duration>,
    begun: Mutex<Vec<Instant>>,
    ended: AtomicUsize,
}

impl Endpoint {
    fn new(kids: &[&str]) -> Arc<Self> {
        let endpoint = Self {
            kids: Mutex::default(),
            delay: Mutex::default(),
            begun: Mutex::default(),
            ended: AtomicUsize::new(0),
        };
        endpoint.serve(kids);
        Arc::new(endpoint)
    }

    fn down() -> Arc<Self> {
        let endpoint = Self::new(&[]);
        endpoint.fail();
        endpoint
    }

    fn serve(&self, kids: &[&str]) {
        *self.kids.lock().unwrap() = Some(kids.iter().map(|kid| (*kid).to_owned()).collect());
    }

    fn fail(&self) {
        *self.kids.lock().unwrap() = None;
    }

    fn delay(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    fn fetches(&self) -> usize {
        self.begun.lock().unwrap().len()
    }

    fn answers(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    async fn fetch(self: Arc<Self>) -> Result<Bytes, FetchError> {
        self.begun.lock().unwrap().push(Instant::now());
        let kids = self.kids.lock().unwrap().clone();
        let delay = *self.delay.lock().unwrap();
        sleep(delay).await;
        self.ended.fetch_add(1, Ordering::SeqCst);
        let kids = kids.ok_or(FetchError::Status(StatusCode::INTERNAL_SERVER_ERROR))?;
        Ok(Bytes::from(testing::jwks(&kids.iter().map(String::as_str).collect::<Vec<_>>())))
    }
}

/// A running set of this pool, its clock, its metrics and its task.
struct Running {
    set: KeySet,
    clock: Clock,
    metrics: Arc<Metrics>,
    task: JoinHandle<()>,
}

fn start_pool(pool: config::Pool, endpoint: &Arc<Endpoint>) -> Running {
    let (clock, metrics) = (Clock::manual(NOW), Arc::new(Metrics::new()));
    let keys = Keys::new(pool.keys.stale);
    let (set, owner) = KeySet::new(Arc::new(pool), keys, clock.clone(), metrics.clone());
    let endpoint = endpoint.clone();
    let task = tokio::spawn(owner.run(move || endpoint.clone().fetch()));
    Running { set, clock, metrics, task }
}

fn start(endpoint: &Arc<Endpoint>) -> Running {
    start_pool(testing::pool(), endpoint)
}

impl Running {
    async fn find(&self, kid: &str, wait: Duration) -> Result<Arc<Key>, NoKey> {
        self.set.find(kid, self.clock.now(), wait).await
    }

    async fn reason(&self, kid: &str, wait: Duration) -> NoKey {
        self.find(kid, wait).await.expect_err("there is no such key")
    }

    /// Both clocks go on, and what is due happens.
    async fn pass(&self, duration: Duration) {
        self.clock.advance(duration);
        sleep(duration).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_fetch_makes_a_set_ready() {
    let endpoint = Endpoint::new(&["k1", "k2"]);
    endpoint.delay(SECOND);
    let running = start(&endpoint);
    assert!(!running.set.is_ready());
    assert_eq!(running.set.status().source, None);
    assert!(running.find("k1", WAIT).await.is_ok(), "the request waits for the fetch under way");
    running.set.ready().await;
    let status = running.set.status();
    assert!(status.ready);
    assert_eq!(status.keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["k1", "k2"]);
    assert_eq!((status.source, status.age_seconds, status.last_error), (Some(Source::Network), Some(0), None));
    assert_eq!(endpoint.fetches(), 1);

    running.pass(Duration::from_secs(42)).await;
    assert_eq!(running.set.status().age_seconds, Some(42));
    let text = running.metrics.text();
    assert!(text.contains(r#"portcullis_jwks_fetch_total{pool="main",outcome="ok"} 1"#), "{text}");
    assert!(text.contains(r#"portcullis_jwks_keys{pool="main"} 2"#), "{text}");
    let age = text.lines().find_map(|line| line.strip_prefix(r#"portcullis_jwks_age_seconds{pool="main"} "#));
    assert!((37..=42).contains(&age.unwrap().parse::<u32>().unwrap()), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_kid_costs_one_fetch_and_is_unknown() {
    let endpoint = Endpoint::new(&["k1"]);
    let running = start(&endpoint);
    running.set.ready().await;
    assert_eq!(running.reason("k9", WAIT).await, NoKey::Unknown);
    assert_eq!(endpoint.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_seen_at_once_and_fetched_once() {
    let endpoint = Endpoint::new(&["k1"]);
    let running = start(&endpoint);
    running.set.ready().await;
    let before = running.find("k1", WAIT).await.unwrap();
    endpoint.serve(&["k1", "k2"]);
    endpoint.delay(SECOND);
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let set = running.set.clone();
            tokio::spawn(async move { set.find("k2", NOW, WAIT).await })
        })
        .collect();
    let mut found = Vec::new();
    for request in requests {
        found.push(request.await.unwrap().unwrap());
    }
    assert_eq!(endpoint.fetches(), 2, "all of them shared one fetch");
    assert!(found.iter().all(|key| Arc::ptr_eq(key, &found[0])));
    assert!(Arc::ptr_eq(&before, &running.find("k1", WAIT).await.unwrap()), "an unchanged key stays the same");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_older_than_the_request_proves_nothing() {
    let endpoint = Endpoint::new(&["k1"]);
    let running = start(&endpoint);
    running.set.ready().await;
    // A fetch is under way; its answer was made before the rotation and arrives after it.
    endpoint.delay(SECOND);
    let earlier = tokio::spawn({
        let set = running.set.clone();
        async move { set.find("random", NOW, WAIT).await.map(|_| ()) }
    });
    sleep(SECOND / 2).await;
    assert_eq!((endpoint.fetches(), endpoint.answers()), (2, 1));
    endpoint.serve(&["k2"]);
    sleep(SECOND / 4).await;
    // The bucket is empty by now: the request waits for the refill.
    let cooldown = testing::pool().keys.cooldown;
    assert!(running.find("k2", cooldown + 2 * SECOND).await.is_ok());
    assert_eq!(earlier.await.unwrap(), Err(NoKey::Unknown));
    assert_eq!(endpoint.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn lesson_26_a_flood_causes_one_fetch_per_cooldown_and_hides_no_rotation() {
    let endpoint = Endpoint::new(&["k1"]);
    endpoint.delay(SECOND / 10);
    let running = start(&endpoint);
    running.set.ready().await;
    let began = Instant::now();
    let flood: Vec<_> = (0..6000_u32)
        .map(|n| {
            let set = running.set.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(u64::from(n) * 10)).await;
                set.find(&format!("random-{n}"), NOW, WAIT).await.map(|_| ())
            })
        })
        .collect();
    sleep(Duration::from_secs(33)).await;
    assert!(endpoint.fetches() <= 1 + 1 + 3, "{} fetches in 33 s, the first one included", endpoint.fetches());
    assert!(timeout(Duration::ZERO, running.find("k1", WAIT)).await.unwrap().is_ok(), "known keys do not wait");

    endpoint.serve(&["k2"]);
    let rotated = Instant::now();
    let cooldown = testing::pool().keys.cooldown;
    assert!(running.find("k2", cooldown + SECOND).await.is_ok());
    assert!(rotated.elapsed() <= cooldown + SECOND / 5, "{:?}", rotated.elapsed());

    for request in flood {
        assert_eq!(request.await.unwrap(), Err(NoKey::Unknown), "the endpoint was healthy all the time");
    }
    assert!(began.elapsed() >= Duration::from_secs(60));
    assert!(endpoint.fetches() <= 1 + 1 + 7, "{} fetches in 63 s", endpoint.fetches());
    assert!(endpoint.fetches() >= 5, "{} fetches in 63 s", endpoint.fetches());
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_known_keys_go_on_and_new_ones_are_unavailable() {
    let endpoint = Endpoint::new(&["k1"]);
    let running = start(&endpoint);
    running.set.ready().await;
    endpoint.fail();
    for _ in 0..20 {
        running.pass(Duration::from_secs(60)).await;
        assert!(running.find("k1", WAIT).await.is_ok());
        assert_eq!(running.reason("k2", WAIT).await, NoKey::Unavailable);
    }
    let status = running.set.status();
    assert!(status.ready);
    assert_eq!(status.age_seconds, Some(1200), "the age is that of the last success");
    assert!(status.last_error.unwrap().contains("500"));
    assert!(running.metrics.text().contains(r#"outcome="status"}"#));

    endpoint.serve(&["k2"]);
    running.pass(testing::pool().keys.cooldown).await;
    assert!(running.find("k2", WAIT).await.is_ok());
    assert_eq!(running.reason("k1", WAIT).await, NoKey::Unknown);
    assert_eq!(running.set.status().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_youth_of_the_set_decides() {
    let endpoint = Endpoint::new(&["k1"]);
    let running = start(&endpoint);
    running.set.ready().await;
    let cooldown = testing::pool().keys.cooldown;
    endpoint.delay(Duration::from_secs(9));
    let asked = Instant::now();
    assert_eq!(running.reason("k2", WAIT).await, NoKey::Unknown, "a set as young as this one is all there is");
    assert_eq!(asked.elapsed(), WAIT, "but the request waited as long as it could");
    running.pass(6 * cooldown).await;
    let asked = Instant::now();
    assert_eq!(running.reason("k2", WAIT).await, NoKey::Unavailable, "the set may have changed since");
    assert_eq!(asked.elapsed(), WAIT);
    running.pass(6 * cooldown).await;
    assert_eq!(running.reason("k2", Duration::ZERO).await, NoKey::Unavailable);

    running.pass(6 * cooldown).await;
    endpoint.delay(Duration::ZERO);
    assert_eq!(running.reason("k2", WAIT).await, NoKey::Unknown);
    running.pass(cooldown - SECOND).await;
    endpoint.delay(Duration::from_secs(9));
    assert_eq!(running.reason("k2", WAIT).await, NoKey::Unknown, "the set was young when the fetch began");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_away_leaves_the_fetch_alone() {
    let endpoint = Endpoint::new(&["k1"]);
    let running = start(&endpoint);
    running.set.ready().await;
    endpoint.serve(&["k2"]);
    endpoint.delay(SECOND);
    assert!(timeout(SECOND / 2, running.find("k2", WAIT)).await.is_err(), "dropped half-way");
    assert_eq!((endpoint.fetches(), endpoint.answers()), (2, 1));
    sleep(SECOND).await;
    assert_eq!((endpoint.fetches(), endpoint.answers()), (2, 2));
    assert!(running.find("k2", Duration::ZERO).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_set_that_cannot_be_had_at_start_is_tried_again_and_again() {
    let endpoint = Endpoint::down();
    let running = start(&endpoint);
    assert_eq!(running.reason("k1", WAIT).await, NoKey::Unavailable);
    running.pass(Duration::from_secs(120)).await;
    assert!(!running.set.is_ready());
    let begun = endpoint.begun.lock().unwrap().clone();
    let waits: Vec<Duration> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((8..=16).contains(&waits.len()), "{waits:?}");
    // Waits double with a quarter of jitter either way, up to half a minute.
    let mut expected = 0.25;
    for wait in waits {
        assert!((expected * 0.74..=expected * 1.26).contains(&wait.as_secs_f64()), "{wait:?} for {expected}");
        expected = f64::min(expected * 2.0, 30.0);
    }
    endpoint.serve(&["k1"]);
    timeout(Duration::from_secs(40), running.set.ready()).await.unwrap();
    assert!(running.find("k1", Duration::ZERO).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_set_is_refreshed_in_the_background_and_withdrawn_keys_retire() {
    let endpoint = Endpoint::new(&["k1", "k2"]);
    let running = start(&endpoint);
    running.set.ready().await;
    let key = running.find("k2", WAIT).await.unwrap();
    endpoint.serve(&["k1"]);
    running.pass(Duration::from_secs(539)).await;
    assert_eq!(endpoint.fetches(), 1);
    assert!(!key.is_retired());
    running.pass(Duration::from_secs(122)).await;
    assert_eq!(endpoint.fetches(), 2);
    assert!(key.is_retired());
    assert!(!running.find("k1", WAIT).await.unwrap().is_retired());
    for _ in 0..60 {
        running.pass(Duration::from_secs(60)).await;
    }
    assert!((7..=9).contains(&endpoint.fetches()), "{} in 71 minutes", endpoint.fetches());
}

#[tokio::test(start_paused = true)]
async fn a_set_without_usable_keys_does_not_replace_a_good_one() {
    let endpoint = Endpoint::new(&["k1"]);
    let running = start(&endpoint);
    running.set.ready().await;
    endpoint.serve(&[]);
    assert_eq!(running.reason("k2", WAIT).await, NoKey::Unavailable);
    assert!(running.find("k1", WAIT).await.is_ok());
    assert!(running.metrics.text().contains(r#"jwks_fetch_total{pool="main",outcome="invalid"} 1"#));
}

#[tokio::test(start_paused = true)]
async fn a_stale_set_is_no_set_until_it_is_confirmed() {
    let mut pool = testing::pool();
    pool.keys.stale = Duration::from_secs(3600);
    let endpoint = Endpoint::new(&["k1"]);
    let running = start_pool(pool, &endpoint);
    running.set.ready().await;
    endpoint.fail();
    running.pass(Duration::from_secs(3600)).await;
    assert!(running.find("k1", Duration::ZERO).await.is_ok(), "old, but not too old");
    running.pass(SECOND).await;
    assert!(!running.set.is_ready());
    assert!(!running.set.status().ready);
    assert_eq!(running.reason("k1", WAIT).await, NoKey::Unavailable);

    // A machine that slept: the wall clock jumps, the timers do not know. The first request wakes the owner.
    endpoint.serve(&["k1"]);
    advance(testing::pool().keys.cooldown).await;
    assert!(running.find("k1", WAIT).await.is_ok());
    running.clock.advance(Duration::from_secs(100_000));
    assert!(!running.set.is_ready());
    // A fetch in the background may have taken the token that was left.
    advance(testing::pool().keys.cooldown).await;
    assert!(running.find("k1", WAIT).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_handle() {
    let idle = Endpoint::new(&["k1"]);
    let running = start(&idle);
    running.set.ready().await;
    let copy = running.set.clone();
    drop(running.set);
    sleep(SECOND).await;
    assert!(!running.task.is_finished(), "there is another handle");
    drop(copy);
    timeout(SECOND, running.task).await.expect("it ends while it waits for the next refresh").unwrap();

    let slow = Endpoint::new(&["k1"]);
    slow.delay(Duration::from_secs(3600));
    let running = start(&slow);
    sleep(SECOND).await;
    drop(running.set);
    timeout(SECOND, running.task).await.expect("it ends in the middle of a fetch").unwrap();

    let flooded = Endpoint::new(&["k1"]);
    let running = start(&flooded);
    running.set.ready().await;
    for _ in 0..2 {
        running.reason("random", SECOND).await;
    }
    drop(running.set);
    timeout(SECOND, running.task).await.expect("it ends while it waits for the bucket").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_copy_on_disk_bridges_an_outage_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut pool = testing::pool();
    pool.keys.cache = Some(folder.path().join("keys/jwks.json"));
    let first = start_pool(pool.clone(), &Endpoint::new(&["k1"]));
    first.set.ready().await;
    let path = pool.keys.cache.clone().unwrap();
    // The task is ended only after it wrote: it waits for its next turn then.
    drop(first.set);
    first.task.await.unwrap();
    assert!(path.exists());

    let endpoint = Endpoint::down();
    let second = start_pool(pool.clone(), &endpoint);
    second.set.ready().await;
    assert!(second.find("k1", Duration::ZERO).await.is_ok());
    assert_eq!(second.reason("k2", WAIT).await, NoKey::Unavailable);
    assert_eq!(second.set.status().source, Some(Source::Disk));
    endpoint.serve(&["k2"]);
    second.pass(Duration::from_secs(60)).await;
    assert!(second.find("k2", Duration::ZERO).await.is_ok(), "the network counts more");
    assert_eq!(second.set.status().source, Some(Source::Network));

    let third = start_pool(pool.clone(), &Endpoint::down());
    third.clock.advance(Duration::from_secs(60) + pool.keys.stale + SECOND);
    sleep(SECOND).await;
    assert!(!third.set.is_ready(), "the copy is too old");

    std::fs::write(&path, "{").unwrap();
    let fourth = start_pool(pool.clone(), &Endpoint::down());
    sleep(SECOND).await;
    assert!(!fourth.set.is_ready(), "a broken copy is ignored");
    let fifth = start_pool(pool, &Endpoint::new(&["k1"]));
    fifth.set.ready().await;
    assert_eq!(fifth.set.status().source, Some(Source::Network), "and replaced");
}
