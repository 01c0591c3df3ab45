//! One connection to one broker: TLS, login, one request after another.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use townlake_common::Result;
use townlake_common::config::SaslMechanism;

use super::error::Server;
use super::sasl::Login;
use super::wire::buffer::{Decoded, Reader, Writer};
use super::wire::messages::{self as messages, Api, Version, Versions};

/// The longest answer in bytes. What is decoded of an answer may be larger than its bytes, so that only records, which are kept
/// as they come, may be many: a batch comes whole, and this bounds `message.max.bytes`.
fn longest_answer(api: Api) -> usize {
    match api {
        Api::Fetch => 128 << 20,
        Api::Metadata | Api::ListOffsets | Api::DescribeConfigs => 32 << 20,
        Api::Versions | Api::SaslHandshake | Api::SaslAuthenticate => 1 << 20,
    }
}

/// How brokers are reached.
pub(crate) struct Settings {
    pub server: Server,
    pub tls: Option<TlsConnector>,
    pub login: Option<Login>,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
}

/// How a listener of TLS says that it does not understand us, where we take it for the length of an answer.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Where a broker listens.
pub(crate) type Address = (String, u16);

/// A connection that is logged in. Dropped, its socket is closed at once.
pub(crate) struct Connection {
    settings: Arc<Settings>,
    wire: Box<dyn Wire>,
    address: Address,
    broker: String,
    versions: Versions,
    correlation: i32,
    /// A request was sent and its answer not read whole: whatever comes next is not for the next request.
    is_busy: bool,
}

impl Connection {
    /// Connects, logs in and learns what the broker speaks.
    ///
    /// Errors: `SOURCE_UNAVAILABLE`, `SOURCE_DENIED`, `DATA_CORRUPT`.
    pub async fn open(settings: &Arc<Settings>, address: &Address, client: &str) -> Result<Self> {
        let broker = format!("{}:{}", address.0, address.1);
        match timeout(settings.connect_timeout, Self::connect(settings, address, &broker, client)).await {
            Ok(opened) => opened,
            Err(_) => Err(settings.server.timed_out(&broker, "connect", "connect_timeout")),
        }
    }

    async fn connect(settings: &Arc<Settings>, address: &Address, broker: &str, client: &str) -> Result<Self> {
        let failed = |error| settings.server.unreachable(broker, "connect", error);
        let socket = TcpStream::connect((address.0.as_str(), address.1)).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let wire: Box<dyn Wire> = match &settings.tls {
            None => Box::new(socket),
            Some(tls) => {
                let name = ServerName::try_from(address.0.clone());
                let name = name.map_err(|_| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
                Box::new(tls.connect(name, socket).await.map_err(failed)?)
            }
        };
        let mut connection = Self {
            settings: Arc::clone(settings),
            wire,
            address: address.clone(),
            broker: broker.to_string(),
            versions: Versions::default(),
            correlation: 0,
            is_busy: false,
        };
        let doing = "learn its versions";
        let answer = connection.exchange(messages::API_VERSIONS, client, &[], doing).await?;
        let (code, versions) = connection.decode(&answer, messages::API_VERSIONS, doing, Versions::decode)?;
        if code.is_error() {
            return Err(settings.server.answered(doing, code));
        }
        connection.versions = versions;
        if let Some(login) = &settings.login {
            connection.log_in(login, client).await?;
        }
        Ok(connection)
    }

    async fn log_in(&mut self, login: &Login, client: &str) -> Result<()> {
        let doing = "log in";
        let asked = messages::sasl_handshake_request(login.name());
        let answer = self.exchange(messages::SASL_HANDSHAKE, client, &asked, doing).await?;
        let decode = messages::sasl_handshake_response;
        let (code, mechanisms) = self.decode(&answer, messages::SASL_HANDSHAKE, doing, decode)?;
        if code.is_error() {
            let what = format!("{} is none of its mechanisms ({})", login.name(), mechanisms.join(", "));
            return Err(self.settings.server.denied(&self.broker, &what));
        }
        if login.mechanism == SaslMechanism::Plain {
            return self.authenticate(&login.plain(), client).await.map(drop);
        }
        let server = self.settings.server.clone();
        let broker = self.broker.clone();
        let refused = |what| server.denied(&broker, what);
        let mut scram = login.scram();
        let first = self.authenticate(&scram.first(), client).await?;
        let proof = scram.last(&first).map_err(refused)?;
        let last = self.authenticate(&proof, client).await?;
        scram.check(&last).map_err(refused)
    }

    async fn authenticate(&mut self, bytes: &[u8], client: &str) -> Result<Vec<u8>> {
        let doing = "log in";
        let asked = messages::sasl_authenticate_request(bytes);
        let answer = self.exchange(messages::SASL_AUTHENTICATE, client, &asked, doing).await?;
        let decode = |reader: &mut Reader<'_>| {
            messages::sasl_authenticate_response(reader).map(|(code, bytes)| (code, bytes.to_vec()))
        };
        let (code, bytes) = self.decode(&answer, messages::SASL_AUTHENTICATE, doing, decode)?;
        match code.is_error() {
            true => Err(self.settings.server.answered(doing, code)),
            false => Ok(bytes),
        }
    }

    /// What the broker speaks.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// `host:port`.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// Where it goes.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether another request may be sent.
    pub fn is_free(&self) -> bool {
        !self.is_busy
    }

    /// Sends a request and waits for its answer. `patience` is how long the broker may take by itself beyond the
    /// configured time. Dropped while it waits, the connection is of no use any more.
    pub async fn call(
        &mut self,
        version: Version,
        client: &str,
        body: &[u8],
        doing: &str,
        patience: Duration,
    ) -> Result<Bytes> {
        let limit = self.settings.request_timeout + patience;
        match timeout(limit, self.exchange(version, client, body, doing)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.settings.server.timed_out(&self.broker, doing, "request_timeout")),
        }
    }

    /// Decodes an answer.
    pub fn decode<'a, T>(
        &self,
        answer: &'a [u8],
        version: Version,
        doing: &str,
        decode: impl FnOnce(&mut Reader<'a>) -> Decoded<T>,
    ) -> Result<T> {
        decode(&mut Reader::new(answer, version.flexible)).map_err(|fault| self.settings.server.corrupt(doing, fault.0))
    }

    async fn exchange(&mut self, version: Version, client: &str, body: &[u8], doing: &str) -> Result<Bytes> {
        self.is_busy = true;
        self.correlation = self.correlation.wrapping_add(1);
        let request = framed(version, self.correlation, client, body);
        let longest = longest_answer(version.api);
        let answer = self.transfer(&request, longest).await;
        let answer = answer.map_err(|error| self.settings.server.unreachable(&self.broker, doing, error))?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(TLS_ALERT) => return Err(self.settings.server.speaks_tls(&self.broker)),
            Err(_) => {
                let what = format!("an answer of more than {} MiB", longest >> 20);
                return Err(self.settings.server.corrupt(doing, &what));
            }
        };
        let mut header = Reader::new(&answer, version.flexible);
        let correlation = self.decode_header(&mut header, doing)?;
        if correlation != self.correlation {
            return Err(self.settings.server.corrupt(doing, "an answer to another request"));
        }
        let body = answer.slice(answer.len() - header.left()..);
        self.is_busy = false;
        Ok(body)
    }

    fn decode_header(&self, reader: &mut Reader<'_>, doing: &str) -> Result<i32> {
        let header = reader.i32().and_then(|correlation| reader.tags().map(|()| correlation));
        header.map_err(|fault| self.settings.server.corrupt(doing, fault.0))
    }

    /// The answer; or the first bytes of its length where it is too long.
    async fn transfer(&mut self, request: &[u8], longest: usize) -> io::Result<std::result::Result<Bytes, [u8; 2]>> {
        self.wire.write_all(request).await?;
        self.wire.flush().await?;
        let told = self.wire.read_i32().await?;
        let length = usize::try_from(told).unwrap_or(usize::MAX);
        if length > longest {
            let [first, second, ..] = told.to_be_bytes();
            return Ok(Err([first, second]));
        }
        // Memory is taken as bytes come, not as the length promises.
        let mut answer = Vec::new();
        (&mut self.wire).take(length as u64).read_to_end(&mut answer).await?;
        match answer.len() == length {
            true => Ok(Ok(Bytes::from(answer))),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A request with its header and length.
fn framed(version: Version, correlation: i32, client: &str, body: &[u8]) -> Vec<u8> {
    let mut header = Writer::new(false);
    header.i16(version.api as i16);
    header.i16(version.number);
    header.i32(correlation);
    header.string(client);
    let header = header.into_bytes();
    let tags: &[u8] = if version.flexible { &[0] } else { &[] };
    let length = header.len() + tags.len() + body.len();
    let length = i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes();
    [&length, header.as_slice(), tags, body].concat()
}
