import MeshPolicy
import Platform

extension NodeConfiguration.Endpoint {
    /// What is wrong with an endpoint that lets peers have this node listen (``MeshPolicy/PeerListening``); nil:
    /// nothing, or it is none.
    var problemWithListening: String? {
        guard case .exact(PeerListening.host) = match.host else { return nil }
        guard direct, tls == nil, announces == nil else {
            return
                "lets peers have this node listen, and leads nowhere: beside 'direct: true', only 'address' means something"
        }
        guard let address else { return nil }
        guard let place = address.address else {
            return "'address' is where this node is to listen, an address of its machine, and no name: \(address.host)"
        }
        guard keepsPort || match.port == address.port else {
            return
                "'address' is where this node is to listen, on the port of 'match': write \(place.isIPv4 ? "\(place)" : "[\(place)]"):*"
        }
        return nil
    }
}
