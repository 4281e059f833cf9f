//! A registry as companies have it: behind nginx, under TLS by an authority of their own, for clients
//! with certificates alone, below a path, in HTTP/2.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{fixed_port, up_settings_at};
use darner_e2e::darner::Darner;
use darner_e2e::process::Process;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{place, wait};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The files of an authority, and of what it has signed for a server and for a client.
struct Papers {
    authority: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

impl Papers {
    fn new(directory: &Path) -> Result<Self> {
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = directory.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not what those are called that it signs: they would be taken for signed by themselves.
        let name = "the house's authority";
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let authority = write("ca.pem", params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        let signed = |name: &str| -> Result<(PathBuf, PathBuf)> {
            let key = KeyPair::generate()?;
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
            let certificate = params.signed_by(&key, &issuer)?.pem();
            Ok((
                write(&format!("{name}.pem"), certificate)?,
                write(&format!("{name}.key"), key.serialize_pem())?,
            ))
        };
        Ok(Self {
            authority,
            server: signed("server")?,
            client: signed("client")?,
        })
    }
}

/// nginx in front of a registry; its log has a line for each request: protocol, whether the client's
/// certificate counts, path.
struct Nginx {
    // In this order: the process ends before its directory goes.
    _process: Process,
    address: SocketAddr,
    log: PathBuf,
}

impl Nginx {
    async fn start(scene: &Scene, papers: &Papers, registry: &str) -> Result<Self> {
        let directory = scene.make_directory("nginx")?;
        let address: SocketAddr = fixed_port()?.parse()?;
        let shown = |path: &Path| path.display().to_string();
        let (place, log) = (shown(&directory), directory.join("access"));
        let text = format!(
            "daemon off; master_process off; pid {place}/pid; error_log {place}/error;\n\
             events {{}}\n\
             http {{\n\
               log_format told '$server_protocol $ssl_client_verify $request_uri';\n\
               access_log {access} told;\n\
               client_body_temp_path {place}/1; proxy_temp_path {place}/2;\n\
               fastcgi_temp_path {place}/3; uwsgi_temp_path {place}/4; scgi_temp_path {place}/5;\n\
               server {{\n\
                 listen {address} ssl http2;\n\
                 ssl_certificate {certificate}; ssl_certificate_key {key};\n\
                 ssl_client_certificate {authority}; ssl_verify_client on;\n\
                 location /images/ {{ proxy_pass {registry}/; }}\n\
               }}\n\
             }}\n",
            access = shown(&log),
            certificate = shown(&papers.server.0),
            key = shown(&papers.server.1),
            authority = shown(&papers.authority),
        );
        let config = directory.join("nginx.conf");
        fs::write(&config, text)?;
        let mut command = Command::new(place::required_tool("nginx")?);
        command.args(["-e", "stderr", "-p"]).arg(&directory);
        command.arg("-c").arg(&config);
        let process = Process::start("nginx", command, &scene.path("nginx.log"))?;
        let connected = async || tokio::net::TcpStream::connect(address).await.ok();
        wait::until("nginx listens", connected).await?;
        Ok(Self {
            _process: process,
            address,
            log,
        })
    }
}

#[test]
fn a_registry_below_a_path_that_wants_certificates_is_read_in_http_2() {
    scene::run("strict_upstream", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let papers = Papers::new(&scene.make_directory("papers")?)?;
        let nginx = Nginx::start(scene, &papers, &upstream.url()).await?;
        let url = format!("https://{}/images", nginx.address);
        let path = |path: &Path| path.display().to_string();
        let trusting = up_settings_at(scene, &url)?.of_upstream("ca_file", path(&papers.authority));
        let settings = trusting
            .clone()
            .of_upstream("client_cert_file", path(&papers.client.0))
            .of_upstream("client_key_file", path(&papers.client.1));
        let mut up = Darner::start(scene, "up", "up", &settings).await?;
        let image = &upstream.images.multi;
        Client::new(&up, NAME)?.pull(image).await?;
        let (bytes, whole) = (upstream.ledger().blob_bytes(image), image.bytes());
        ensure!(bytes == whole, "upstream sent {bytes} for {whole} bytes");
        let log = fs::read_to_string(&nginx.log)?;
        let asked: Vec<_> = log.lines().filter(|line| line.contains("/v2/")).collect();
        ensure!(!asked.is_empty(), "nothing was asked: {log}");
        for line in asked {
            ensure!(line.starts_with("HTTP/2.0 SUCCESS /images/v2/"), "{line}");
        }
        up.kill()?;

        // Without a certificate nginx tells it nothing, and it tells its clients nothing wrong.
        let other = trusting.set("data_dir", path(&scene.path("data-other")));
        let up = Darner::start(scene, "other", "up", &other).await?;
        let tag = format!("{}/manifests/{}", image.repository, image.tag);
        let refused = Client::new(&up, NAME)?.get(&tag).await?;
        ensure!(refused.status >= 400, "{}", refused.describe());
        ensure!(refused.status != 429, "{}", refused.describe());
        Ok(())
    });
}
