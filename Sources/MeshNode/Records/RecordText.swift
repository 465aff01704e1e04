import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// Writes the lines of the access log. What many of them have in common is kept as they have it: most streams of a
/// listener follow one plan, come from few addresses, and go the same way. A line is then put together from pieces.
/// Confined to its loop.
struct RecordText {
    /// What a plan says. An object, so that nothing is copied to be compared.
    private final class PlanText {
        /// Kept, so that no other plan gets its place in memory.
        var plan: StreamPlan
        let front: FrontName
        let source: [UInt8]
        /// The same, and the address of the client up to its port, where it is where the request says that it comes
        /// from.
        let sourceAndAddress: [UInt8]
        let destination: [UInt8]
        /// The decision, and the name of the number that follows.
        let decision: [UInt8]

        init(_ ticket: StreamTicket) {
            plan = ticket.plan
            front = ticket.front
            source = JSONWriter.fragment { json in
                ticket.writeFront(into: &json)
                ticket.writeSource(into: &json)
            }
            let address = ticket.plan.request.sourceIP
            let host = address.isIPv4 ? "\(address)" : "[\(address)]"
            sourceAndAddress = source + Array(",\"address\":\"\(host):".utf8)
            destination = JSONWriter.fragment { ticket.writeDestination(into: &$0) }
            decision = JSONWriter.fragment { ticket.writeDecision(into: &$0) } + Array(",\"sent\":".utf8)
        }

        /// Whether another plan says the same: each second has its own.
        func holds(for other: StreamPlan) -> Bool {
            plan.request.isSame(as: other.request) && plan.outcome == other.outcome
                && plan.decision.rule == other.decision.rule
        }
    }

    /// How a stream went on.
    private final class WayText {
        let path: PathID?
        let dialled: SocketAddress?
        let peer: SPIFFEID?
        let members: [UInt8]

        init(_ ticket: StreamTicket) {
            path = ticket.path
            dialled = ticket.dialled
            peer = ticket.peer
            members = JSONWriter.fragment { ticket.writeWay(into: &$0) }
        }

        func isThat(of ticket: StreamTicket) -> Bool {
            path == ticket.path && dialled == ticket.dialled && peer == ticket.peer
        }
    }

    private var plans: [PlanText] = []
    private var ways: [WayText] = []
    /// The last ones.
    private var metadata: (of: StreamMetadata, text: [UInt8])?
    /// Which of the pieces of a kind is replaced next.
    private var oldest = 0

    /// Of each kind.
    private static let limit = 4

    /// Lets go of plans, which hold much.
    mutating func forget() { self = RecordText() }

    /// What follows the name of the identifier, to the end of the line: the members of ``StreamTicket/write(into:)``,
    /// and what became of it.
    mutating func write(_ record: StreamRecord, into line: inout LineWriter) {
        let ticket = record.ticket
        let plan = planText(ticket)
        line.append(ticket.id)
        if let client = ticket.client, client.address == ticket.plan.request.sourceIP {
            line.append(plan.sourceAndAddress)
            line.append(UInt64(client.port))
            line.append("\"")
        } else {
            line.append(plan.source)
            line.append(JSONWriter.fragment { ticket.writeClient(into: &$0) })
        }
        line.append(plan.destination)
        if ticket.history.count > 0 {
            // It has a way of its own, which no other stream may be said to have gone.
            line.append(JSONWriter.fragment { ticket.writeWay(into: &$0) })
        } else if ticket.isOpen {
            line.append(wayText(ticket).members)
        }
        if let trace = ticket.trace {
            line.append(",\"traceparent\":\"")
            line.append(trace)
            line.append("\"")
        }
        if let metadata = ticket.metadata { line.append(text(of: metadata)) }
        line.append(plan.decision)
        Self.writeEnd(record, into: &line)
    }

    private static func writeEnd(_ record: StreamRecord, into line: inout LineWriter) {
        let ticket = record.ticket
        line.append(record.sent)
        line.append(",\"received\":")
        line.append(record.received)
        if ticket.isOpen {
            line.append(",\"open\":")
            line.append(nanoseconds: ticket.opened &- ticket.began)
        }
        line.append(",\"duration\":")
        line.append(nanoseconds: record.ended &- ticket.began)
        switch record.outcome {
        case .ended: line.append(",\"outcome\":\"ended\"")
        case .cut: line.append(",\"outcome\":\"cut\"")
        case .refused: line.append(",\"outcome\":\"refused\"")
        }
        switch record.endedBy {
        case .client: line.append(",\"by\":\"client\"")
        case .destination: line.append(",\"by\":\"destination\"")
        case .node: line.append(",\"by\":\"node\"")
        }
        if record.status != nil || record.failure != nil {
            let (status, failure) = (record.status, record.failure)
            line.append(
                JSONWriter.fragment { json in
                    if let status {
                        json.key("status")
                        json.number(status)
                    }
                    if let failure {
                        json.key("code")
                        json.string(failure.code.description)
                        json.key("reason")
                        json.string(failure.message)
                    }
                }
            )
        }
        line.append("}\n")
    }

    private mutating func planText(_ ticket: StreamTicket) -> PlanText {
        for text in plans where text.plan === ticket.plan && text.front === ticket.front { return text }
        for text in plans where text.front === ticket.front && text.holds(for: ticket.plan) {
            text.plan = ticket.plan
            return text
        }
        let text = PlanText(ticket)
        Self.keep(text, in: &plans, instead: &oldest)
        return text
    }

    private mutating func wayText(_ ticket: StreamTicket) -> WayText {
        for text in ways where text.isThat(of: ticket) { return text }
        let text = WayText(ticket)
        Self.keep(text, in: &ways, instead: &oldest)
        return text
    }

    private mutating func text(of metadata: StreamMetadata) -> [UInt8] {
        if let known = self.metadata, known.of == metadata { return known.text }
        let text = JSONWriter.fragment { metadata.write(into: &$0) }
        self.metadata = (metadata, text)
        return text
    }

    private static func keep<Text>(_ text: Text, in kept: inout [Text], instead oldest: inout Int) {
        guard kept.count == limit else { return kept.append(text) }
        oldest = (oldest + 1) % limit
        kept[oldest] = text
    }
}
