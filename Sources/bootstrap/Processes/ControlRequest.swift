import ArgumentParser
import Glibc
import MeshPaths
import Platform
import Streams

/// `-O`: what the process that listens on a control socket is to do.
struct ControlRequest: Sendable {
    enum Action: String, CaseIterable, ExpressibleByArgument, Sendable {
        case check, exit, forward, cancel
    }

    let action: Action
    let path: String
    let peer: String
    let forwards: Forwards

    /// - Throws: the exit code; why was printed.
    func run() async throws { try await run("-O \(action.rawValue)") { try await ask(on: $0) } }

    private func run(_ option: String, _ body: (EventLoop) async throws -> Void) async throws {
        let loop = EventLoop(name: "control")
        let result: Result<Void, any Error>
        do { result = .success(try await body(loop)) } catch { result = .failure(error) }
        await loop.shutDown()
        do {
            try result.get()
        } catch ControlError.refused(let message, let code) {
            throw fail("\(option): \(message)", code)
        } catch ControlError.gone {
            throw fail("\(option): the process that listened on \(path) has ended")
        } catch let code as ExitCode {
            throw code
        } catch {
            throw fail("\(option): \(error)")
        }
    }

    private func open(_ option: String, on loop: EventLoop) async throws -> ControlClient {
        guard let client = try await ControlClient.connect(to: path, on: loop) else {
            throw fail("\(option): no process listens on \(path)")
        }
        _ = try await client.ask(["open", peer, PathPreference.automatic.rawValue])
        return client
    }

    private func ask(on loop: EventLoop) async throws {
        let client = try await open("-O \(action.rawValue)", on: loop)
        switch action {
        case .check:
            let answer = try await client.ask(["check"])
            // In ssh's words, for scripts that know them.
            printLine("Master running (pid=\(client.process))")
            printLine("\(peer)\(answer.first?.isEmpty == false ? "" : ", unreachable now")")
            for line in answer.dropFirst() { printLine(line) }
        case .exit:
            _ = try await client.ask(["exit"])
            printDone("Exit request sent.")
        case .forward:
            for (letter, text) in forwards.words {
                let answer = try await client.ask(["forward", letter, text, "kept"]) { printNotice($0) }
                if let line = answer.first { printDone(line) }
            }
        case .cancel:
            for (letter, text) in forwards.words { _ = try await client.ask(["cancel", letter, text]) }
        }
    }
}
