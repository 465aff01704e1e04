import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// What many lines of the access log have in common, as they have it: most streams of a listener follow one plan, come
/// from few addresses, and go the same way. A line is then put together from pieces. Confined to its loop.
struct RecordText {
    /// What a plan says.
    private struct PlanText {
        /// Kept, so that no other plan gets its place in memory.
        let plan: StreamPlan
        let front: FrontName
        let source: [UInt8]
        let destination: [UInt8]
        let decision: [UInt8]
    }

    /// How a stream went on.
    private struct WayText {
        let path: PathID?
        let dialled: SocketAddress?
        let peer: SPIFFEID?
        let members: [UInt8]
    }

    private struct ClientText {
        let address: IPAddress
        /// Up to its port.
        let start: [UInt8]
    }

    private var plans: [PlanText] = []
    private var ways: [WayText] = []
    private var client: ClientText?
    /// Which of the pieces of a kind is replaced next.
    private var oldest = 0

    /// Of each kind.
    private static let limit = 4

    /// Lets go of plans, which hold much.
    mutating func forget() { self = RecordText() }

    /// The same members as ``StreamTicket/write(into:)``.
    mutating func write(_ ticket: StreamTicket, into json: inout JSONWriter) {
        let plan = planIndex(ticket)
        json.key("id")
        json.number(ticket.id)
        json.members(plans[plan].source)
        writeClient(ticket, into: &json)
        json.members(plans[plan].destination)
        if ticket.history.count > 0 {
            // It has a way of its own, which no other stream may be said to have gone.
            ticket.writeWay(into: &json)
        } else if ticket.isOpen {
            json.members(ways[wayIndex(ticket)].members)
        }
        ticket.metadata?.write(into: &json)
        json.members(plans[plan].decision)
    }

    private mutating func writeClient(_ ticket: StreamTicket, into json: inout JSONWriter) {
        guard let client = ticket.client, let address = client.address else { return ticket.writeClient(into: &json) }
        if self.client?.address != address {
            let text = address.description
            let host = address.isIPv4 ? text : "[\(text)]"
            self.client = ClientText(address: address, start: Array(",\"address\":\"\(host):".utf8))
        }
        if let known = self.client { json.member(startedBy: known.start, client.port) }
    }

    private mutating func planIndex(_ ticket: StreamTicket) -> Int {
        for index in plans.indices where plans[index].plan === ticket.plan && plans[index].front === ticket.front {
            return index
        }
        let text = PlanText(
            plan: ticket.plan,
            front: ticket.front,
            source: JSONWriter.fragment { json in
                ticket.writeFront(into: &json)
                ticket.writeSource(into: &json)
            },
            destination: JSONWriter.fragment { ticket.writeDestination(into: &$0) },
            decision: JSONWriter.fragment { ticket.writeDecision(into: &$0) }
        )
        return Self.keep(text, in: &plans, instead: &oldest)
    }

    private mutating func wayIndex(_ ticket: StreamTicket) -> Int {
        for index in ways.indices
        where ways[index].path == ticket.path && ways[index].dialled == ticket.dialled
            && ways[index].peer == ticket.peer
        {
            return index
        }
        let text = WayText(
            path: ticket.path,
            dialled: ticket.dialled,
            peer: ticket.peer,
            members: JSONWriter.fragment { ticket.writeWay(into: &$0) }
        )
        return Self.keep(text, in: &ways, instead: &oldest)
    }

    private static func keep<Text>(_ text: Text, in kept: inout [Text], instead oldest: inout Int) -> Int {
        guard kept.count == limit else {
            kept.append(text)
            return kept.count - 1
        }
        oldest = (oldest + 1) % limit
        kept[oldest] = text
        return oldest
    }
}
