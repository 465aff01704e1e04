import MeshIdentity
import SSHSignal
import Streams

/// What was chosen when a device was enrolled first holds until its operator says otherwise. What the device itself
/// knows stays there (`keeps`); this is what only the record tells.
extension EnrollmentOrder {
    /// Where the key is made when there is to be no agent; nil when there is.
    func keyOrigin(for known: Device?) -> Device.KeyOrigin? {
        if let keyOrigin { return keyOrigin }
        guard let known, known.isAgentless, !namesAgent else { return nil }
        return known.keyOrigin
    }
}

extension SignalMessage.NodeRequest {
    /// With the address and port that the record has, where nobody has named others: for a device that has lost its
    /// configuration.
    func bound(as known: Device?) -> SignalMessage.NodeRequest {
        guard let place = known?.listener, let (address, number) = NumericAddress.split(place) else { return self }
        var result = self
        if keeps?.contains("bind") == true { result.bind = address }
        if keeps?.contains("port") == true { result.port = number }
        return result
    }
}

extension Device {
    /// It was enrolled without an agent.
    var isAgentless: Bool { (keyOrigin ?? .device) != .device }
}
