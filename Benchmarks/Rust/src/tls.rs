//! Mutual TLS 1.3 by rustls: AES-128-GCM first, P-256, and a peer that has the SPIFFE ID it must have.

use std::fs::read;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpStream;
use tokio_rustls::rustls::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use tokio_rustls::rustls::client::{ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::kx_group::SECP256R1;
use tokio_rustls::rustls::server::AllowAnyAuthenticatedClient;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    Certificate, ClientConfig, Error, PrivateKey, RootCertStore, ServerConfig, ServerName, SupportedCipherSuite,
    SupportedKxGroup,
};
use tokio_rustls::{client, server, TlsAcceptor, TlsConnector};

use crate::Failure;

static SUITES: [SupportedCipherSuite; 3] =
    [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
static GROUPS: [&SupportedKxGroup; 1] = [&SECP256R1];

struct Credentials {
    chain: Vec<Certificate>,
    key: PrivateKey,
    root: Vec<u8>,
}

impl Credentials {
    fn load(directory: &str) -> Result<Self, Failure> {
        let file =
            |name: &str| read(Path::new(directory).join(name)).map_err(|error| format!("{directory}/{name}: {error}"));
        let certificates =
            |name: &str| -> Result<Vec<Vec<u8>>, Failure> { Ok(rustls_pemfile::certs(&mut &file(name)?[..])?) };
        let key = rustls_pemfile::pkcs8_private_keys(&mut &file("key.pem")?[..])?.pop();
        Ok(Credentials {
            chain: certificates("cert-chain.pem")?.into_iter().map(Certificate).collect(),
            key: PrivateKey(key.ok_or("key.pem has no PKCS #8 key")?),
            root: certificates("root-cert.pem")?.pop().ok_or("root-cert.pem has no certificate")?,
        })
    }
}

/// rustls 0.20 knows DNS names only: the chain is checked by webpki, and the identity by looking for it in the
/// certificate. That is enough for a benchmark, and costs nothing but in the handshake.
fn has_identity(certificate: &Certificate, identity: &str) -> bool {
    certificate.0.windows(identity.len()).any(|window| window == identity.as_bytes())
}

struct SPIFFEVerifier {
    root: Vec<u8>,
    peer: String,
}

impl ServerCertVerifier for SPIFFEVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &Certificate,
        intermediates: &[Certificate],
        _: &ServerName,
        _: &mut dyn Iterator<Item = &[u8]>,
        _: &[u8],
        now: SystemTime,
    ) -> Result<ServerCertVerified, Error> {
        let invalid = |error: webpki::Error| Error::InvalidCertificateData(error.to_string());
        let anchors = [webpki::TrustAnchor::try_from_cert_der(&self.root).map_err(invalid)?];
        let chain: Vec<&[u8]> = intermediates.iter().map(|certificate| certificate.0.as_slice()).collect();
        webpki::EndEntityCert::try_from(end_entity.0.as_slice())
            .and_then(|certificate| {
                certificate.verify_is_valid_tls_server_cert(
                    &[&webpki::ECDSA_P256_SHA256],
                    &webpki::TlsServerTrustAnchors(&anchors),
                    &chain,
                    webpki::Time::try_from(now).map_err(|_| webpki::Error::CertExpired)?,
                )
            })
            .map_err(invalid)?;
        if !has_identity(end_entity, &self.peer) {
            return Err(Error::General(format!("the server is not {}", self.peer)));
        }
        Ok(ServerCertVerified::assertion())
    }
}

pub async fn connect(tcp: TcpStream, credentials: &str, peer: &str) -> Result<client::TlsStream<TcpStream>, Failure> {
    let credentials = Credentials::load(credentials)?;
    let mut config = ClientConfig::builder()
        .with_cipher_suites(&SUITES)
        .with_kx_groups(&GROUPS)
        .with_protocol_versions(&[&TLS13])?
        .with_custom_certificate_verifier(Arc::new(SPIFFEVerifier { root: credentials.root, peer: peer.to_string() }))
        .with_single_cert(credentials.chain, credentials.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    // Neither sent nor checked: rustls wants a name.
    let name = ServerName::try_from("server.invalid")?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?)
}

#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    peer: Arc<str>,
}

impl Acceptor {
    pub fn new(credentials: &str, peer: &str) -> Result<Self, Failure> {
        let credentials = Credentials::load(credentials)?;
        let mut roots = RootCertStore::empty();
        roots.add(&Certificate(credentials.root))?;
        let mut config = ServerConfig::builder()
            .with_cipher_suites(&SUITES)
            .with_kx_groups(&GROUPS)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(AllowAnyAuthenticatedClient::new(roots))
            .with_single_cert(credentials.chain, credentials.key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Acceptor { tls: TlsAcceptor::from(Arc::new(config)), peer: peer.into() })
    }

    pub async fn accept(&self, tcp: TcpStream) -> Result<server::TlsStream<TcpStream>, Failure> {
        let stream = self.tls.accept(tcp).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        if !certificates.first().map_or(false, |certificate| has_identity(certificate, &self.peer)) {
            return Err(
                io::Error::new(io::ErrorKind::PermissionDenied, format!("the client is not {}", self.peer)).into()
            );
        }
        Ok(stream)
    }
}
