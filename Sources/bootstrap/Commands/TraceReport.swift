import Fleet
import MeshPaths
import MeshPolicy
import Platform
import SSHSignal
import Streams

/// What a trace says: a table for people, or one object for programs.
struct TraceReport {
    let destination: String
    let device: Device?
    /// Where the stream of each path is to end.
    let target: Authority?
    let isJSON: Bool
    private(set) var traces: [PathTrace] = []

    init(_ destination: String, device: Device?, target: Authority?, isJSON: Bool) {
        self.destination = destination
        self.device = device
        self.target = target
        self.isJSON = isJSON
    }

    func began(_ path: PathID) {
        guard !isJSON else { return }
        printLine("path \(path)")
    }

    mutating func ended(_ trace: PathTrace) {
        traces.append(trace)
        guard !isJSON else { return }
        let places = trace.steps.map { $0.place.map { " \($0)" } ?? "" }
        let width = zip(trace.steps, places).map { $0.kind.rawValue.count + $1.count }.max() ?? 0
        for (step, place) in zip(trace.steps, places) { printStep(step, place, width) }
    }

    private func printStep(_ step: TraceStep, _ place: String, _ width: Int) {
        func padded(_ text: String, _ width: Int) -> String {
            text + String(repeating: " ", count: max(0, width - text.count))
        }
        let time = step.duration.map(Self.milliseconds) ?? ""
        let detail: String
        var fix: String?
        var colour: String?
        switch step.outcome {
        case .passed:
            let shared = step.isShared ? "the same as before" : nil
            detail = [step.detail, shared].compactMap { $0 }.joined(separator: ", ")
        case .skipped(let why): detail = why
        case .notReached: detail = ""
        case .failed(let reason):
            detail = reason.description
            fix = explain(step, reason).fix
            colour = Colour.failed
        }
        let name = "  " + padded(step.kind.rawValue + place, width)
        let start = "\(name)  \(padded(step.outcome.word, 11))"
        let number = String(repeating: " ", count: max(0, 12 - time.count)) + time
        var line = "\(start)  \(number)  \(detail)"
        while line.last == " " { line.removeLast() }
        printLine(line, colour, of: start.count)
        if let fix { printLine(String(repeating: " ", count: start.count + 16) + "→ \(fix)") }
    }

    /// With as much of a fraction as one can see of a local connection.
    private static func milliseconds(_ duration: Duration) -> String {
        let hundredths = (duration.nanoseconds + 5_000) / 10_000
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction) ms"
    }

    private func explain(_ step: TraceStep, _ failure: TraceFailure) -> TraceExplanation {
        TraceExplanation(step, failure, destination: destination, device: device, target: target)
    }

    /// Prints what is left to print.
    ///
    /// - Returns: As `connect` would end over the same paths; nil where a stream would have been opened.
    func end() -> HostError.Reason? {
        if isJSON {
            printJSON(
                Object(
                    destination: destination,
                    target: target?.description,
                    paths: traces.map { trace in
                        Object.Path(
                            path: trace.path.transport.rawValue,
                            address: trace.path.qualifier.isEmpty ? nil : trace.path.qualifier,
                            up: trace.isUp,
                            ok: trace.failure == nil,
                            seconds: Self.seconds(trace.duration),
                            steps: trace.steps.map(object)
                        )
                    }
                )
            )
        }
        return TraceExplanation.outcome(of: traces, explain)
    }

    private func object(_ step: TraceStep) -> Object.Step {
        var object = Object.Step(
            step: step.kind.rawValue,
            at: step.place,
            status: step.outcome.word,
            seconds: step.duration.map(Self.seconds),
            shared: step.isShared ? true : nil,
            detail: step.detail
        )
        switch step.outcome {
        case .failed(let reason):
            object.error = reason.description
            object.fix = explain(step, reason).fix
        case .skipped(let why): object.detail = why
        case .passed, .notReached: break
        }
        return object
    }

    /// Exact to the microsecond.
    private static func seconds(_ duration: Duration) -> Double { Double(duration.nanoseconds / 1000) / 1_000_000 }

    private struct Object: Encodable {
        var destination: String
        /// Absent where none was named.
        var target: String?
        var paths: [Path]

        struct Path: Encodable {
            var path: String
            /// Where it leads; absent where there is one of its kind.
            var address: String?
            /// It could carry streams.
            var up: Bool
            /// No step of it has failed.
            var ok: Bool
            var seconds: Double
            var steps: [Step]
        }

        struct Step: Encodable {
            var step: String
            /// The jump host or gateway; absent elsewhere.
            var at: String?
            var status: String
            /// Absent where it was not tried.
            var seconds: Double?
            /// It was made for a path before this one.
            var shared: Bool?
            var detail: String?
            var error: String?
            var fix: String?
        }
    }
}

extension TraceStep.Outcome {
    fileprivate var word: String {
        switch self {
        case .passed: "ok"
        case .failed: "failed"
        case .notReached: "not reached"
        case .skipped: "skipped"
        }
    }
}
