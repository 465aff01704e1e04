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

    /// Shows what `check` says: on a terminal in place, each second, and elsewhere what has changed. Ends with the
    /// other process.
    ///
    /// - Throws: the exit code; why was printed.
    func watch() async throws {
        try await run("--watch") { loop in
            let client = try await open("--watch", on: loop)
            let live = LiveLines(isEnabled: true, descriptor: STDOUT_FILENO)
            var shown: [String] = []
            while true {
                let lines = Array(try await client.ask(["check"]).dropFirst())
                if live.isEnabled {
                    for (index, line) in lines.enumerated() { live.update("\(index + 1)", line) }
                    for index in lines.count..<max(lines.count, shown.count) { live.end("\(index + 1)") }
                } else if lines.map(Self.lasting) != shown.map(Self.lasting) {
                    for line in lines { printLine(line) }
                }
                shown = lines
                try await Task.sleep(for: .seconds(1))
            }
        }
    }

    /// A line without what changes all the time: how long ago, and the round trip.
    private static func lasting(_ line: String) -> String {
        if line.hasPrefix("for "), let colon = line.firstIndex(of: ":") { return String(line[colon...]) }
        return line.split(separator: ", ").filter { !$0.hasPrefix("RTT ") }.joined(separator: ", ")
    }

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
