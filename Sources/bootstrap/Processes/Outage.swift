import Fleet
import MeshPaths
import MeshPolicy
import SSHSignal
import Streams
import Synchronization

/// Tells of an outage on stderr: see `OutageLog`. Told on the loop, where the order is that of the events.
final class Outage: Sendable {
    private struct State {
        var log = OutageLog()
        var hasBeenUp = false
        /// What was said before the first path; few.
        var warned: [String] = []
        /// For the line about the path, which is printed elsewhere.
        var note = ""
    }

    private let state = Mutex(State())

    func follow(_ change: PathChange) {
        let now = UInt64(clamping: Int64((ContinuousClock.now - Self.start) / .nanoseconds(1)))
        let line = state.withLock { state -> String? in
            switch change {
            case .using:
                state.hasBeenUp = true
                state.note += state.log.up(at: now)
                return nil
            // Before the first path that ends the command, with its reason.
            case .unreachable(let error): return state.hasBeenUp ? state.log.unreachable(error, at: now) : nil
            case .refused, .relaying: return nil
            }
        }
        if let line { printWarning(line) }
    }

    func failed(_ failure: ForwardFailure) {
        let line = state.withLock { state in state.hasBeenUp ? state.log.failed(failure) : nil }
        if let line { printWarning(line) }
    }

    /// Of a login that is tried again: once it has worked, the outage tells why it does not.
    func warn(_ text: String) {
        let isNew = state.withLock { state in
            guard !state.hasBeenUp, !state.warned.contains(text) else { return false }
            state.warned.append(text)
            return true
        }
        if isNew { printNotice(text) } else { printDetail(text) }
    }

    func takeNote() -> String {
        state.withLock { state in
            defer { state.note = "" }
            return state.note
        }
    }

    private static let start = ContinuousClock.now
}

/// Why a login that asks somebody is needed at all: the paths that ask nobody do not work. Said before the question.
final class FallbackReason: Sendable {
    private let paths = Mutex<LoopBound<PeerPaths>?>(nil)
    private let told = Mutex("")
    private let asked = Atomic(false)

    /// Somebody was asked for something.
    var hasAsked: Bool { asked.load(ordering: .relaxed) }

    func look(at paths: LoopBound<PeerPaths>) { self.paths.withLock { $0 = paths } }

    /// The same logins; whoever is asked is told why.
    func told(before logins: LoginOptions) -> LoginOptions {
        var logins = logins
        if let ask = logins.prompts.passphrase {
            logins.prompts.passphrase = { [self] request in
                await tell()
                return await ask(request)
            }
        }
        if let ask = logins.prompts.authentication {
            logins.prompts.authentication = { [self] question in
                await tell()
                return await ask(question)
            }
        }
        return logins
    }

    private func tell() async {
        asked.store(true, ordering: .relaxed)
        guard let paths = paths.withLock({ $0 }) else { return }
        let failures = try? await paths.loop.execute {
            paths.withValue {
                $0.failures.filter { $0.path.transport == .h2 }.map { "\($0.path): \($0.error.message)" }
            }
        }
        guard let text = failures?.joined(separator: "; "), !text.isEmpty else { return }
        let isNew = told.withLock { told in
            defer { told = text }
            return told != text
        }
        if isNew { printNotice("\(text); logging in by SSH instead") }
    }
}
