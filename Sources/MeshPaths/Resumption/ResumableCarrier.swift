import H2Transport
import MeshIdentity
import Streams

/// What carries a resumable stream and can tell a reset of that stream from its own end. Nothing of it is asked for a
/// byte.
protocol ResumableCarrier: ByteStream {
    /// The other side has reset the stream, not only let go of this.
    var wasResetByPeer: Bool { get }
    /// Who is at the other end, as a certificate has proved.
    var provenPeer: SPIFFEID? { get }
    /// That certificate.
    var peerCertificate: CertificateName? { get }
    /// Which process of its node is at the other end; 0: it has not said.
    var peerProcess: UInt32 { get }
    /// What was answered to the request for it.
    var answer: ConnectResponse? { get }

    /// As `reset`, and tells the other side that the stream goes on elsewhere.
    func letGo(_ reason: StreamError)
}

extension ByteStream {
    /// nil: nothing that a resumable stream goes over. Each stream that is opened is asked: a cast to a class is cheap.
    var asCarrier: (any ResumableCarrier)? {
        if let stream = self as? H2Stream { return stream }
        return self as? LoopBridge
    }
}

extension H2Stream: ResumableCarrier {
    var provenPeer: SPIFFEID? { peer }
    var peerCertificate: CertificateName? { transport?.peerCertificate }
    var peerProcess: UInt32 { transport?.peerProcess ?? 0 }
    var answer: ConnectResponse? { response }
}

/// A stream of HTTP/2 on another event loop.
extension LoopBridge: ResumableCarrier {
    private var known: BridgedFacts? { BridgedFacts(of: self) }

    var wasResetByPeer: Bool { farewell == .resetByPeer }
    var provenPeer: SPIFFEID? { known?.peer }
    var peerCertificate: CertificateName? { known?.certificate }
    var peerProcess: UInt32 { known?.process ?? 0 }
    var answer: ConnectResponse? { known?.response }

    func letGo(_ reason: StreamError) { reset(reason, saying: .letGo) }

    /// Joins this end with a stream of its loop. The stream may carry one that outlives it: each side is told whether
    /// it is that which was reset, or only its carrier.
    func join(_ stream: H2Stream) {
        let relay = Relay(stream, self)
        relay.onFailure = { error in
            if self.farewell == .letGo { return stream.letGo(error) }
            if stream.wasResetByPeer { self.reset(error, saying: .resetByPeer) }
        }
        relay.start()
    }
}
