import MeshPolicy
import Platform
import Streams

extension StreamTicket {
    /// An object of the page of live streams, in JSON. Rates are those since the page was asked for last, or since the
    /// stream began.
    func writeLive(sent: UInt64, received: UInt64, now: UInt64, into json: inout JSONWriter) {
        let elapsed = max(1, now &- looked.at)
        func rate(_ bytes: UInt64) -> UInt64 {
            UInt64(min(Double(bytes) * 1_000_000_000 / Double(elapsed), 1e18))
        }
        json.object { json in
            write(into: &json)
            json.key("age")
            json.seconds(nanoseconds: now &- began)
            json.key("sent")
            json.number(sent)
            json.key("received")
            json.number(received)
            json.key("sentPerSecond")
            json.number(rate(sent &- looked.sent))
            json.key("receivedPerSecond")
            json.number(rate(received &- looked.received))
            json.key("why")
            json.string("\(plan.decision.reason); \(plan.routeDescription)")
        }
        // Who asks again at once would see what one turn of the loop has carried.
        if elapsed > 500_000_000 { looked = (now, sent, received) }
    }
}
