//! Owns the raw GET that others are measured against: by the HTTP client that programs use, and by nothing but a socket.
//! Does not know what is read.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::vault::ROOT_TOKEN;

/// reqwest with one kept connection, called from the main thread of a tokio program.
pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    address: String,
}

impl Client {
    pub(super) fn new(address: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { runtime, client, address: address.to_owned() }
    }

    pub(super) fn get(&mut self, path: &str) {
        let request = self.client.get(format!("{}{path}", self.address)).header("X-Vault-Token", ROOT_TOKEN);
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap().error_for_status().unwrap();
            assert!(answer.bytes().await.unwrap().len() > 64);
        });
    }
}

/// One kept connection and nothing around it: the least that reading a secret over HTTP can cost.
pub(super) struct Socket {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Socket {
    pub(super) fn connect(address: &str) -> Self {
        let host = address.strip_prefix("http://").unwrap().to_owned();
        let stream = TcpStream::connect(&host).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, host, buffer: vec![0; 65536] }
    }

    pub(super) fn get(&mut self, path: &str) {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nX-Vault-Token: {ROOT_TOKEN}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes()).unwrap();
        let mut filled = 0;
        loop {
            filled += self.stream.read(&mut self.buffer[filled..]).unwrap();
            let text = std::str::from_utf8(&self.buffer[..filled]).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() >= length.trim().parse::<usize>().unwrap() {
                return;
            }
        }
    }
}
