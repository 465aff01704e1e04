import ArgumentParser
import Glibc
import MeshPaths
import Platform
import Streams

/// `connect` over the paths of a process that has them already.
struct JoinedConnection: Sendable {
    enum Outcome {
        /// Nobody listens at the control path.
        case noMaster
        case ended
        /// It has ended, and with it what it did for this process.
        case masterGone
    }

    let place: ControlPlace
    let peer: String
    let preference: PathPreference
    let forwards: Forwards
    let exitsOnForwardFailure: Bool
    /// The forwards are left to the master, and the command ends (`-f`).
    let leavesForwards: Bool
    let name: String

    private func report(_ line: String) {
        guard forwards.standard == nil else { return printDetail(line) }
        if Verbosity.current >= .normal { printLine(line) }
    }

    /// - Throws: the exit code; why was printed.
    func run() async throws -> Outcome {
        let loop = EventLoop(name: "connect")
        let result: Result<Outcome, any Error>
        do { result = .success(try await join(on: loop)) } catch { result = .failure(error) }
        await loop.shutDown()
        return try result.get()
    }

    private func open(on loop: EventLoop) async throws -> ControlClient? {
        do {
            guard let client = try await ControlClient.connect(to: place.path, on: loop) else { return nil }
            let path = try await client.ask(["open", peer, preference.rawValue])
            report("path \(path.first ?? ""): shared with process \(client.process)")
            return client
        } catch ControlError.gone {
            return nil
        } catch ControlError.refused(let message, let code) {
            throw fail("the process that listens on \(place.path) refuses: \(message)", code)
        } catch {
            throw fail("\(error)")
        }
    }

    private func join(on loop: EventLoop) async throws -> Outcome {
        guard let client = try await open(on: loop) else { return .noMaster }
        let signals = await StopSignals.ofThisProcess.value
        do {
            try await ask(client)
        } catch ControlError.gone {
            return .masterGone
        }
        if leavesForwards {
            // Another process may have become the master since the one that waits has looked.
            Background.enter()
            return .ended
        }
        return try await withThrowingTaskGroup(of: Outcome.self) { group in
            group.addTask {
                await signals.wait()
                return .ended
            }
            group.addTask {
                await client.listen { report($0) }
                return .masterGone
            }
            if let destination = forwards.standard {
                group.addTask { try await carryStandardStream(to: destination, on: loop) }
            } else {
                ServiceNotification.ofThisProcess.ready("shared with process \(client.process)")
            }
            defer { group.cancelAll() }
            let outcome = try await group.next() ?? .ended
            // With the master its streams have gone, too: standard input was read already.
            if case .masterGone = outcome, forwards.standard != nil {
                throw fail("process \(client.process), whose paths were shared, has ended")
            }
            return outcome
        }
    }

    /// Has the master listen.
    private func ask(_ client: ControlClient) async throws {
        var left = forwards.words.count
        for (letter, text) in forwards.words {
            do {
                let words = ["forward", letter, text, leavesForwards ? "kept" : "bound"]
                let answer = try await client.ask(words) { report($0) }
                report(answer.first ?? "")
                if answer.count > 1, !answer[1].isEmpty { printNotice(answer[1]) }
            } catch ControlError.refused(let message, let code) {
                left -= 1
                let isFatal = letter != "R" || exitsOnForwardFailure || (left == 0 && forwards.standard == nil)
                guard !isFatal else { throw fail(letter == "R" ? "-R \(text): \(message)" : message, code) }
                printWarning("-R \(text): \(message)")
            }
        }
    }

    private func carryStandardStream(to destination: Authority, on loop: EventLoop) async throws -> Outcome {
        // Its connection becomes the stream.
        guard let client = try await open(on: loop) else { return .masterGone }
        let ends = AsyncStream<ControlError?>.makeStream()
        let fail = { @Sendable (error: ControlError) in
            switch error {
            case .refused(let message, let code): bootstrap.fail("\(destination): \(message)", code)
            case .gone: bootstrap.fail("\(destination): the process whose paths were shared has ended")
            }
        }
        let written = try await loop.execute {
            let standard = try StandardStream(on: loop)
            // Printed before standard output ends: who reads it may end this process then.
            client.carry(standard.stream, to: destination, onFailure: { _ = fail($0) }) {
                ends.continuation.yield($0)
            }
            return standard.written
        }
        for await failure in ends.stream {
            for await number in written where number != 0 {
                throw bootstrap.fail("standard output: \(String(cString: strerror(number)))")
            }
            switch failure {
            case nil: return .ended
            case .refused(_, let code): throw code
            case .gone: throw ExitCode.failed
            }
        }
        return .ended
    }
}
