//! A web server with files, as they lie behind signed URLs: nginx, which takes no request for a file
//! without a signature, and counts what it sends.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use darner_proto::digest::Digest;

use crate::place;
use crate::process::Process;
use crate::scene::Scene;
use crate::wait;

/// The name of the server, as clients call it; it is on this machine.
pub const HOST: &str = "localhost";
const BLOCK: usize = 1 << 20;

/// nginx.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    root: PathBuf,
    log: PathBuf,
    process: Process,
}

/// What nginx has sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The answer.
    pub status: u16,
    /// Bytes of the body.
    pub bytes: u64,
    /// Without the query.
    pub path: String,
}

impl Web {
    /// Starts it without files, each connection at most as fast as `rate` says, such as `20m`;
    /// `0` is without a limit.
    pub async fn start(scene: &Scene, rate: &str) -> Result<Self> {
        let directory = scene.make_directory("web")?;
        let root = scene.make_directory("web/files")?;
        let log = directory.join("access");
        let address = place::fixed_port()?.parse()?;
        let config = directory.join("nginx.conf");
        std::fs::write(&config, text(&directory, address, rate))?;
        let mut command = Command::new(place::required_tool("nginx")?);
        command.arg("-c").arg(&config).arg("-p").arg(&directory);
        let process = Process::start("nginx", command, &scene.path("nginx.log"))?;
        let new = Self {
            address,
            root,
            log,
            process,
        };
        let url = format!("http://{address}/ping");
        wait::until("nginx answers", async || reqwest::get(&url).await.ok()).await?;
        Ok(new)
    }

    /// `localhost:port`, where it is.
    pub fn host(&self) -> String {
        format!("{HOST}:{}", self.address.port())
    }

    /// The URL of a file without a signature.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.host())
    }

    /// The URL of a file with a signature of `who`, which others do not have.
    pub fn signed(&self, path: &str, who: &str) -> String {
        format!("http://{}/{path}?id=1&X-Sig=valid-{who}", self.host())
    }

    /// Puts a file of `size` bytes there, in place of what was there before, changed so many
    /// seconds ago. `seed` makes it another.
    pub fn put(&self, path: &str, size: u64, (seed, age): (u64, u64)) -> Result<Digest> {
        let target = self.root.join(path);
        let parent = target.parent().context("a file lies in a directory")?;
        std::fs::create_dir_all(parent)?;
        let new = self.root.join("new");
        let (mut file, mut hasher) = (File::create(&new)?, Digest::Sha256([0; 32]).hasher());
        let mut left = usize::try_from(size)?;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut block = Vec::with_capacity(BLOCK + 8);
        while left > 0 {
            block.clear();
            while block.len() < left.min(BLOCK) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                block.extend_from_slice(&state.to_le_bytes());
            }
            block.truncate(left.min(BLOCK));
            hasher.update(&block);
            file.write_all(&block)?;
            left -= block.len();
        }
        file.set_modified(SystemTime::now() - Duration::from_secs(age))?;
        std::fs::rename(&new, &target)?;
        Ok(hasher.finish())
    }

    /// Puts a file with this content there.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let target = self.file(path);
        let parent = target.parent().context("a file lies in a directory")?;
        std::fs::create_dir_all(parent)?;
        std::fs::write(&target, content)?;
        let file = File::options().write(true).open(&target)?;
        // A date that is this young is no validator.
        Ok(file.set_modified(SystemTime::now() - Duration::from_secs(100))?)
    }

    /// Where a file lies.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What it has sent so far, of requests that have ended.
    pub fn sent(&self) -> Result<Vec<Sent>> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(parse).collect()
    }

    /// Bytes sent of a path.
    pub fn bytes_of(&self, path: &str) -> Result<u64> {
        let path = format!("/{path}");
        let sent = self.sent()?;
        let of_path = sent.iter().filter(|one| one.path == path);
        Ok(of_path.map(|one| one.bytes).sum())
    }

    /// Ends it.
    pub fn stop(&mut self) -> Result<()> {
        self.process.kill()
    }
}

fn parse(line: &str) -> Result<Sent> {
    let mut words = line.splitn(4, ' ');
    let mut next = || words.next().context("a line of four words");
    let sent = Sent {
        method: next()?.to_owned(),
        status: next()?.parse()?,
        bytes: next()?.parse()?,
        path: next()?.to_owned(),
    };
    Ok(sent)
}

fn text(directory: &Path, address: SocketAddr, rate: &str) -> String {
    let directory = directory.display();
    format!(
        r#"
daemon off;
master_process off;
user root;
pid {directory}/pid;
error_log {directory}/error;
events {{ worker_connections 512; }}
http {{
    log_format sent '$request_method $status $body_bytes_sent $uri';
    access_log {directory}/access sent;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    sendfile on;
    limit_rate {rate};
    server {{
        listen {address};
        root {directory}/files;
        location = /ping {{ access_log off; return 204; }}
        location /signed/ {{
            if ($request_uri !~ "X-Sig=valid-") {{ return 403; }}
        }}
        location /tree/ {{ autoindex on; }}
        location /plain/ {{ etag off; }}
        location /bare/ {{ etag off; add_header Last-Modified ""; }}
        location /mine/ {{
            if ($http_authorization != "Bearer right") {{ return 401; }}
        }}
        location /moved/ {{ rewrite ^/moved/(.*)$ http://localhost:{port}/open/$1? redirect; }}
        location = /to {{ return 302 http://$arg_host/; }}
        location /inside/ {{ return 302 http://169.254.169.254/latest; }}
    }}
}}
"#,
        port = address.port()
    )
}
