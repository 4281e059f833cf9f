//! Content through the real HTTP server, over real sockets.

use std::net::SocketAddr;
use std::ops::Range;

use darner_proto::digest::Digest;
use darner_service::metrics::Metrics;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use proptest::prelude::*;

use super::*;
use crate::store::{Content, Options, Store};

mod tls;

const SIZE: u64 = (6 << 20) + 77;

/// Serves `/START-END` of one content; `?short` promises a byte less than it sends, `/text` bytes
/// that come from no file.
struct Files {
    content: Content,
    as_bytes: bool,
}

impl Front for Files {
    type Body = UnsyncBoxBody<Bytes, io::Error>;

    const NAME: &'static str = "test";
    const MAX_CONNECTIONS: usize = 8;
    const STALL_TIMEOUT: Duration = Duration::from_secs(60);

    async fn answer(&self, request: Request<Incoming>, outlet: Outlet) -> Response<Self::Body> {
        if request.uri().path() == "/text" {
            return Response::new(
                Full::from(TEXT)
                    .map_err(|never| match never {})
                    .boxed_unsync(),
            );
        }
        let range = range_of(request.uri().path());
        let mut length = range.end - range.start;
        if request.uri().query() == Some("short") {
            length -= 1;
        }
        let outlet = if self.as_bytes {
            Outlet::of_bytes(copied::Pool::default())
        } else {
            outlet
        };
        let frames = outlet.body(self.content.clone().spans(range));
        let body = StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes?))));
        Response::builder()
            .header("content-length", length)
            .body(body.boxed_unsync())
            .unwrap()
    }
}

const TEXT: &str = "no file, just a few words";

fn range_of(path: &str) -> Range<u64> {
    let (start, end) = path.trim_start_matches('/').split_once('-').unwrap();
    start.parse().unwrap()..end.parse().unwrap()
}

struct Rig {
    address: SocketAddr,
    whole: Vec<u8>,
    file: std::path::PathBuf,
    shutdown: Shutdown,
    _directory: tempfile::TempDir,
}

impl Rig {
    async fn start(as_bytes: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(directory.path().join("store"), Some(1 << 30));
        let store = Store::open(options, &Metrics::default()).unwrap();
        let mut whole = vec![0; usize::try_from(SIZE).unwrap()];
        blake3::Hasher::new().finalize_xof().fill(&mut whole);
        let digest = Digest::sha256(&whole);
        store.put(&digest, whole.clone().into()).await.unwrap();
        let content = store.get(&digest).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::default();
        let front = Files { content, as_bytes };
        shutdown.spawn(accept(
            listener,
            front,
            ListenMetrics::default(),
            shutdown.clone(),
        ));
        let blobs = directory.path().join("store/blobs/sha256");
        Self {
            address,
            whole,
            file: blobs.join(digest.hex()),
            shutdown,
            _directory: directory,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn bytes(&self, range: Range<u64>) -> &[u8] {
        &self.whole[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.drain();
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

/// Reads one answer's body, of which the head tells the length.
async fn answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// Sends a request and reads whatever comes until the server hangs up, in one way or the other.
async fn until_cut(rig: &Rig, path: &str) -> Vec<u8> {
    let mut stream = rig.connect().await;
    stream.write_all(get(path).as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => got.extend_from_slice(&buffer[..read]),
        }
    }
    let body = got.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    got.split_off(body + 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_row_get_their_bytes() {
    for as_bytes in [false, true] {
        let rig = Rig::start(as_bytes).await;
        let mut stream = rig.connect().await;
        for range in [
            0..SIZE,
            5..5,
            0..1,
            (1 << 20) - 1..(2 << 20) + 3,
            SIZE - 9..SIZE,
        ] {
            let path = format!("/{}-{}", range.start, range.end);
            stream.write_all(get(&path).as_bytes()).await.unwrap();
            assert!(
                answer(&mut stream).await == rig.bytes(range.clone()),
                "{range:?}"
            );
            stream.write_all(get("/text").as_bytes()).await.unwrap();
            assert_eq!(answer(&mut stream).await, TEXT.as_bytes());
        }
    }
}

/// All requests are sent before the first answer is read, so answers wait for one another in the
/// server and the socket is full most of the time.
#[tokio::test(flavor = "multi_thread")]
async fn requests_sent_at_once_get_their_bytes_in_order() {
    let rig = Rig::start(false).await;
    let mut stream = rig.connect().await;
    let ranges: Vec<_> = (0..40)
        .map(|n| n * 150_001..n * 150_001 + n * 3000)
        .collect();
    let mut requests = String::new();
    for range in &ranges {
        requests += &get(&format!("/{}-{}", range.start, range.end));
        requests += &get("/text");
    }
    stream.write_all(requests.as_bytes()).await.unwrap();
    for range in ranges {
        assert!(
            answer(&mut stream).await == rig.bytes(range.clone()),
            "{range:?}"
        );
        assert_eq!(answer(&mut stream).await, TEXT.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_ends_early_cuts_the_connection() {
    let rig = Rig::start(false).await;
    let kept = 3 << 20;
    // What no one should do to a store.
    let file = std::fs::OpenOptions::new().write(true).open(&rig.file);
    file.unwrap().set_len(kept).unwrap();
    let got = until_cut(&rig, &format!("/0-{SIZE}")).await;
    assert!(got.len() as u64 <= kept);
    assert!(got == rig.bytes(0..got.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_longer_than_promised_ends_the_connection() {
    let rig = Rig::start(false).await;
    let mut stream = rig.connect().await;
    let requests = get("/0-3000?short") + &get("/5000-6000");
    stream.write_all(requests.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await == rig.bytes(0..2999));
    let mut rest = Vec::new();
    // Cut, by an end or a reset; never other bytes than the right ones.
    let _ = stream.read_to_end(&mut rest).await;
    let body = rest.windows(4).position(|end| end == b"\r\n\r\n");
    let body = body.map_or(&[][..], |at| &rest[at + 4..]);
    assert!(rig.bytes(5000..6000).starts_with(body));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_on_a_plain_port_is_told_so() {
    let rig = Rig::start(false).await;
    let mut stream = rig.connect().await;
    stream
        .write_all(&[TLS_HANDSHAKE, 3, 1, 0, 4])
        .await
        .unwrap();
    let mut told = Vec::new();
    stream.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, NOT_TLS);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_connections_are_closed_at_once() {
    let rig = Rig::start(false).await;
    let mut open = Vec::new();
    for _ in 0..Files::MAX_CONNECTIONS {
        let mut stream = rig.connect().await;
        stream.write_all(get("/0-1").as_bytes()).await.unwrap();
        answer(&mut stream).await;
        open.push(stream);
    }
    let mut refused = rig.connect().await;
    let mut got = Vec::new();
    let _ = refused.read_to_end(&mut got).await;
    assert!(got.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn any_ranges_on_any_connections(
        starts in prop::collection::vec((0..SIZE, 0..SIZE), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::start(false).await;
            let asked = starts.iter().map(|(a, b)| async {
                let range = *a.min(b)..*a.max(b);
                let mut stream = rig.connect().await;
                let path = format!("/{}-{}", range.start, range.end);
                stream.write_all(get(&path).as_bytes()).await.unwrap();
                answer(&mut stream).await == rig.bytes(range)
            });
            let right = futures_util::stream::iter(asked).buffer_unordered(4);
            assert!(right.all(|right| async move { right }).await);
        });
    }
}
