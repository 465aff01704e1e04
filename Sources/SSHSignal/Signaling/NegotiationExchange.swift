package import Platform
package import Streams

/// Drives a ``NegotiationOperator`` over the standard input and output of the device's agent: frames in and out, and
/// the time limits. Confined to its loop; keeps itself until the conversation is over.
package final class NegotiationExchange: StreamObserver {
    package enum Outcome: Hashable, Sendable {
        case offered(PeerOffer)
        case told
        /// The agent is older than this conversation.
        case unsupported
    }

    package typealias Completion = (Result<Outcome, SignalError>) -> Void

    private let process: SSHProcess
    private var machine: NegotiationOperator
    private let limits = ConversationLimits.brief
    private var inbox: SignalInbox
    private let clock: WallClock
    private let began: ContinuousClock.Instant
    private var asked: Duration = .zero
    private var output: [UInt8] = []
    private var isOver = false
    private var hasFinished = false
    private var completion: Completion?
    private var timer: LoopTimer?
    private var retained: NegotiationExchange?

    private init(_ process: SSHProcess, _ machine: NegotiationOperator, _ clock: WallClock) {
        self.process = process
        self.machine = machine
        self.clock = clock
        inbox = SignalInbox(limits)
        began = .now
    }

    /// Runs `command`, which is to be the agent's, and holds one conversation with it.
    ///
    /// - Parameter completion: Called once, on the loop, unless the exchange is cancelled before.
    package static func start(
        _ command: String,
        over connection: any SSHConnection,
        _ machine: NegotiationOperator,
        clock: WallClock = .system,
        completion: @escaping Completion
    ) {
        connection.execute(command) { result in
            switch result {
            case .success(let process):
                let exchange = NegotiationExchange(process, machine, clock)
                exchange.begin(completion)
            case .failure(let error): completion(.failure(SignalError(.refused, error.message)))
            }
        }
    }

    private func begin(_ completion: @escaping Completion) {
        self.completion = completion
        retained = self
        process.stream.observer = self
        timer = LoopTimer(on: process.stream.loop) { [weak self] in self?.timedOut() }
        wait()
        read()
    }

    package func streamReadable(_ stream: ByteStream) { read() }
    package func streamWritable(_ stream: ByteStream) { write() }
    package func streamFailed(_ stream: ByteStream) { failed() }

    private var now: Duration { .now - began }

    private func read() {
        // What comes after the end is read, so that the far end may come to its own.
        switch process.stream.readAll(while: { retained != nil }, take) {
        case .paused: break
        case .end:
            guard !isOver else { return release() }
            do throws(SignalError) {
                try inbox.finish()
                received(.ended(nil))
            } catch {
                received(.ended(error))
            }
            release()
        case .failed: failed()
        }
    }

    private func take(_ bytes: UnsafeRawBufferPointer) {
        guard !isOver else { return }
        do throws(SignalError) {
            try inbox.append(bytes)
        } catch {
            received(.invalid(error))
        }
        next()
    }

    /// What has arrived whole.
    private func next() {
        while !isOver {
            do throws(SignalError) {
                guard let message = try inbox.next() else { return wait() }
                asked = now
                received(.message(message))
            } catch {
                received(.invalid(error))
            }
        }
    }

    private func wait() {
        guard let patience = inbox.patience(at: now, since: asked) else { return timedOut() }
        timer?.schedule(after: patience)
    }

    private func timedOut() {
        guard !isOver else { return release() }
        received(inbox.overrun(at: now))
    }

    private func failed() {
        let reason = process.stream.failure?.message ?? "the channel failed"
        received(.ended(SignalError(.truncated, "the connection was cut: \(reason)")))
        release()
    }

    private func received(_ reception: SignalReception) {
        for action in machine.handle(reception, now: clock.milliseconds) {
            switch action {
            case .send(let message):
                guard let frame = try? SignalFrame.encode(message) else { continue }
                inbox.willSend(frame.count)
                output += frame
            case .offered(let offer): end(.success(.offered(offer)))
            case .told: end(.success(.told))
            case .unsupported: end(.success(.unsupported))
            case .failed(let error): end(.failure(explained(error)))
            case .close:
                isOver = true
                // The agent has its time to read the last word.
                timer?.schedule(after: limits.finish)
            }
        }
        write()
    }

    private func write() {
        while !output.isEmpty {
            switch output.withUnsafeBytes({ process.stream.write($0) }) {
            case .bytes(let count): output.removeFirst(count)
            case .wouldBlock: return
            // Why stands in what it said last, which is still to be read.
            case .failed: output = []
            }
        }
        guard isOver, !hasFinished else { return }
        hasFinished = true
        process.stream.finish()
    }

    private func explained(_ error: SignalError) -> SignalError {
        var error = error
        let log = error.isFromPeer ? "" : Printable.clean(process.standardErrorText, limit: 300)
        if !log.isEmpty { error.message += " (the agent said: \(log))" }
        return error
    }

    private func end(_ result: Result<Outcome, SignalError>) {
        guard let completion else { return }
        self.completion = nil
        // Not from inside of what the channel is telling.
        process.stream.loop.later { completion(result) }
    }

    private func release() {
        guard retained != nil else { return }
        isOver = true
        timer?.cancel()
        end(.failure(SignalError(.truncated, "the conversation had no outcome")))
        process.stream.observer = nil
        process.close()
        retained = nil
    }
}
