//! More clients at once than are answered at once.

use super::*;

/// What no buffers of a connection hold.
const LARGE: usize = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_their_time_with_held_content_hold_nobody_up() {
    let fake = Fake::start().await;
    let image = fake.image("a", LARGE);
    let front = Front::with(&fake, |settings| settings.registry.max_requests = 1).await;
    let path = format!("/v2/a/blobs/{}", image.layer);
    front.until_kept(&path, &[]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        let mut client = socket.connect(front.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        // None of those before has read more than this.
        clients.push(client);
    }
}
