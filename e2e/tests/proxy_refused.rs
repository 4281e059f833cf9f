//! Nobody is led to where only this machine or this network gets, however an address is written.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darner_e2e::cluster::up_settings;
use darner_e2e::darner::Darner;
use darner_e2e::upstream::Upstream;
use darner_e2e::web::Web;
use darner_e2e::{raw, scene};
use tokio::net::TcpListener;

/// Ways to write addresses of this machine, of its network, of its link, and of nobody.
const FORMS: [&str; 53] = [
    // Loopback, as it is read since 1983.
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.8.8.8",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0.0.1",
    "0X7F.0x0.0x0.0x1",
    "0177.0.0.1",
    "0177.1",
    "017700000001",
    "127%2e0%2e0%2e1",
    "0",
    "0x0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::]",
    // IPv4 within IPv6: mapped, compatible, translated, tunnelled.
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:7F00:0001]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::127.0.0.1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::1]",
    // Link-local, where clouds answer with credentials.
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::169.254.169.254]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    // The own network.
    "10.0.0.1",
    "0x0a.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "[fd00::1]",
    // Everybody, nobody.
    "224.0.0.1",
    "[ff02::1]",
    "240.0.0.1",
    "255.255.255.255",
];

/// Listens wherever this machine is at home, at one port.
async fn sentinels() -> Result<(u16, Vec<TcpListener>)> {
    let first = TcpListener::bind("0.0.0.0:0").await?;
    let port = first.local_addr()?.port();
    let mut all = vec![first];
    // Not every machine has this.
    all.extend(TcpListener::bind(("::1", port)).await);
    Ok((port, all))
}

/// A request is refused: by how its target is written, or once its name is looked up (502). That nobody
/// was connected to, the sentinels tell.
async fn refused(proxy: SocketAddr, method: &str, target: &str) -> Result<()> {
    let answer = raw::request(proxy, method, target, "").await?;
    ensure!(
        matches!(answer.status, 400 | 403 | 502),
        "{method} {target}: {}",
        answer.describe()
    );
    Ok(())
}

async fn all_refused(node: &Darner, port: u16) -> Result<()> {
    let proxy = node.address("proxy")?;
    for form in FORMS {
        for target in [format!("{form}:{port}"), format!("{form}:443")] {
            refused(proxy, "CONNECT", &target).await?;
            refused(proxy, "GET", &format!("http://{target}/")).await?;
        }
    }
    Ok(())
}

#[test]
fn no_way_to_write_an_address_leads_inside() {
    scene::run_for("proxy_refused", Duration::from_secs(180), async |scene| {
        let (port, sentinels) = sentinels().await?;
        let web = Web::start(scene, "0").await?;
        let upstream = Upstream::start(scene).await?;
        let settings = up_settings(scene, &upstream)?
            .set("proxy.listen", "127.0.0.1:0")
            .route(&web.host());
        let closed = Darner::start(scene, "closed", "up", &settings).await?;
        // Nothing says that they may be asked.
        all_refused(&closed, port).await?;
        drop(closed);
        let closed_but = settings.clone();
        // Any host of the internet may, at these ports: still none of these.
        let any = format!("*:{port}");
        let settings = settings.routed(&any, &[]).routed("*", &[]);
        let open = Darner::start(scene, "open", "up", &settings).await?;
        all_refused(&open, port).await?;
        // Nor is anybody led there by a host that may be asked.
        let client = reqwest::Client::builder().no_proxy().build()?;
        let path = format!("{}/file", open.url("registry")?);
        for form in FORMS {
            let url = format!("{}?host={form}:{port}", web.url("to"));
            let asked = client.get(&path).header("darner-url", &url);
            let answer = asked.send().await?;
            ensure!(answer.status() == 502, "{form}: {answer:?}");
            let url = format!("http://{form}:{port}/");
            let asked = client.get(&path).header("darner-url", &url);
            let answer = asked.send().await?;
            ensure!(
                answer.status().is_client_error() || answer.status() == 502,
                "{form}: {answer:?}"
            );
        }
        for sentinel in &sentinels {
            let came = tokio::time::timeout(Duration::ZERO, sentinel.accept()).await;
            ensure!(came.is_err(), "something was connected to");
        }
        drop(open);
        // What is configured is connected to: the sentinel would have seen the others.
        let target = format!("127.0.0.1:{port}");
        let open =
            Darner::start(scene, "configured", "up", &closed_but.routed(&target, &[])).await?;
        let answer = raw::request(open.address("proxy")?, "CONNECT", &target, "");
        // The tunnel ends when this end of it does.
        let came = async {
            let sentinel = sentinels.first().context("no sentinel")?;
            sentinel.accept().await.map(drop).context("accept")
        };
        let (answer, came) = tokio::join!(answer, came);
        came?;
        ensure!(answer?.status == 200);
        Ok(())
    });
}
