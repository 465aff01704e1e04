package import MeshPaths
package import Platform
import SSHSignal
import Streams

/// What can be done about a step of a trace that failed, and what kind of failure it is.
package struct TraceExplanation {
    package let fix: String?
    package let reason: HostError.Reason

    /// - Parameters:
    ///   - step: Which failed.
    ///   - failure: Why.
    ///   - destination: As the user wrote it.
    ///   - device: nil: it is none.
    ///   - target: Where the stream was to end.
    package init(
        _ step: TraceStep,
        _ failure: TraceFailure,
        destination: String,
        device: Device?,
        target: Authority?
    ) {
        switch failure {
        case .ssh(let error):
            (fix, reason) = (SSHErrorExplanation(error, destination: destination).fix, HostError.Reason(error.code))
        case .stream(let error):
            let isAnswer = step.kind == .connect || step.kind == .stream || step.kind == .firstByte
            guard isAnswer || step.kind == .channel else {
                let explanation = PathErrorExplanation(error, name: device?.name)
                let unknown =
                    device?.hbone.isEmpty == true
                    ? "bootstrap enroll \(destination)" : "check the spelling, and that a name server knows it"
                fix = step.kind == .names ? unknown : explanation.fix
                reason = explanation.reason
                return
            }
            // One that leads to the node, or to the next gateway, says nothing of the target.
            let next = step.between
            switch error.code {
            case .denied:
                reason = .denied
                let remedy = next == nil ? target.flatMap { device?.remedy(forDenied: $0) } : nil
                fix =
                    remedy
                    ?? (step.kind == .channel
                        ? "in its sshd_config: AllowTcpForwarding yes (or local), and no PermitOpen that leaves the port out"
                        : "its node's log names the rule; there, bootstrap explain --config FILE asks without a stream")
            case .authentication: (fix, reason) = ("see who must be there, and who is", .authenticationRefused)
            case .refused,
                .unreachable where step.kind == .channel && next != nil:
                let words =
                    next.map {
                        "no node listens at \($0) there: start it (\(Self.start(device, destination))); ss -tln shows what listens"
                    }
                    ?? "nobody listens at \(target.map { "\($0)" } ?? "it") there: ss -tln"
                (fix, reason) = (words, .failed)
            case .unreachable where error.isLackOfHeldConnection:
                (fix, reason) = (
                    """
                    the device holds no reverse connection to that gateway: on the device, bootstrap doctor and its node's log say why; at \
                    the gateway, bootstrap status --watch shows who holds one
                    """, .failed
                )
            case .timedOut: (fix, reason) = ("see whether it is up, and reachable from there", .failed)
            case .unreachable: (fix, reason) = ("see whether that machine knows the name, and a route", .failed)
            default: (fix, reason) = (nil, .failed)
            }
        }
    }

    private static func start(_ device: Device?, _ destination: String) -> String {
        device == nil ? "bootstrap node" : "bootstrap enroll \(destination)"
    }

    /// How `connect` would end over the same paths: the first that is up decides, a peer that does not prove who it is
    /// is left at once, and where none is up the login says why.
    ///
    /// - Parameters:
    ///   - traces: In order of preference.
    ///   - explain: What a failed step means.
    /// - Returns: nil where a stream would have been opened.
    package static func outcome(
        of traces: [PathTrace],
        _ explain: (TraceStep, TraceFailure) -> TraceExplanation
    ) -> HostError.Reason? {
        var login: HostError.Reason?
        for trace in traces {
            guard let (step, failure) = trace.failure else { return nil }
            let reason = explain(step, failure).reason
            switch failure {
            case .stream where trace.isUp: return reason
            case .stream(let error) where error.code == .authentication && trace.weight != .none: return reason
            case .stream(let error) where step.isAnswer(error) && trace.weight == .answer: return reason
            // The other paths may do without.
            case .ssh where reason != .hostKeyRefused: if reason == .authenticationRefused { login = reason }
            case .ssh: return reason
            case .stream: break
            }
        }
        return login ?? .unreachable
    }
}

extension TraceStep {
    fileprivate func isAnswer(_ error: StreamError) -> Bool {
        kind == .connect && (error.code == .denied || error.code == .loop || error.code == .badRequest)
    }
}
