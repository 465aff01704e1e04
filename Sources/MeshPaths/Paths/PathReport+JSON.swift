import MeshIdentity
import MeshPolicy
package import Platform
import Streams

extension PathReport {
    /// One object, as the pages of the administration and the control socket of `connect` have it.
    ///
    /// - Parameter isShort: Without the servers that it leads to, of which there may be many.
    package func write(carrying traffic: PathTraffic, isShort: Bool = false, into json: inout JSONWriter) {
        json.object { json in
            json.key("path")
            json.string(path.description)
            json.key("state")
            json.string(state.rawValue)
            json.key("streams")
            json.number(streams)
            json.key("sent")
            json.number(traffic.sent)
            json.key("received")
            json.number(traffic.received)
            if let age {
                json.key("age")
                json.seconds(nanoseconds: age.nanoseconds)
            }
            if let why {
                json.key("why")
                json.string(why)
            }
            if let roundTripTime {
                json.key("roundTripTime")
                json.seconds(nanoseconds: roundTripTime.nanoseconds)
            }
            if let isMultipath {
                json.key("multipath")
                json.bool(isMultipath)
            }
            if let peer {
                json.key("peer")
                json.string(peer.description)
            }
            if let failure {
                json.key("failure")
                json.string(failure)
            }
            guard !servers.isEmpty, !isShort else { return }
            json.key("servers")
            json.array { json in
                for server in servers { server.write(into: &json) }
            }
        }
    }
}

extension ServerReport {
    fileprivate func write(into json: inout JSONWriter) {
        json.object { json in
            json.key("address")
            json.string(address.description)
            json.key("state")
            json.string(state.rawValue)
            if let failure {
                json.key("failure")
                json.string(failure)
            }
        }
    }
}
