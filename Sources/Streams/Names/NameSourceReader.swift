import Glibc
import Platform

/// Asks the sources of names, one after the other, until one has addresses. Confined to its loop.
final class NameSourceReader {
    /// Why there are no addresses.
    struct Failure: Error, Hashable {
        let code: StreamError.Code
        let reason: String
    }

    typealias Completion = (Result<[SocketAddress], Failure>) -> Void

    private let loop: EventLoop
    private let files: NameFiles
    private let limits: LookupLimits
    private var stamp: FileStamp?
    private var steps: [NameSources.Step] = []
    private var patience = ServerPatience()
    /// By the sources they ask.
    private var channels: [String: AresChannel] = [:]
    private var families: (value: Int32, until: UInt64) = (AF_UNSPEC, 0)
    private var programs = 0
    private var waitingForProgram: ArraySlice<() -> Void> = []

    init(on loop: EventLoop, files: NameFiles, limits: LookupLimits) {
        self.loop = loop
        self.files = files
        self.limits = limits
    }

    /// - Parameter completion: Called once, never from inside this call; not at all when the loop shuts down first.
    func look(up name: String, completion: @escaping Completion) {
        readFiles()
        run(steps[...], name, nil, completion)
    }

    /// Reads the files anew where they have changed: networks come and go.
    private func readFiles() {
        let now = files.stamp
        guard now != stamp else { return }
        stamp = now
        let sources = (try? LocalFile.read(files.sources, limit: 1 << 20)) ?? nil
        steps = NameSources(nsswitch: sources, asksModules: files.getent != nil).steps
        let servers = (try? LocalFile.read(files.resolver, limit: 1 << 20)) ?? nil
        patience = servers.map(ServerPatience.init(resolver:)) ?? ServerPatience()
        for channel in channels.values { channel.retire() }
        channels = [:]
    }

    private func run(
        _ steps: ArraySlice<NameSources.Step>,
        _ name: String,
        _ failure: Failure?,
        _ completion: @escaping Completion
    ) {
        guard let step = steps.first else { return end(name, failure, completion) }
        let rest = steps.dropFirst()
        switch step.source {
        case .modules(let line):
            // As below: the rest of a line may have name servers in it.
            if Self.isLocal(name), line.split(separator: " ").contains("dns") {
                return run(rest, name, failure, completion)
            }
            asked(modules: line, name) { [self] addresses in
                if addresses.isEmpty { run(rest, name, failure, completion) } else { completion(.success(addresses)) }
            }
        case .cares(let letters):
            // RFC 6761 §6.3: name servers are not asked for these.
            let sources = Self.isLocal(name) ? letters.filter { $0 == "f" } : letters
            guard !sources.isEmpty else { return run(rest, name, failure, completion) }
            let channel: AresChannel
            do throws(StreamError) {
                channel = try self.channel(sources)
            } catch {
                let failure = Failure(code: error.code, reason: error.message)
                return loop.later { completion(.failure(failure)) }
            }
            channel.ask(name, family: family()) { [self] result in
                switch result {
                case .success(let addresses): completion(.success(addresses))
                case .failure(let error):
                    // What the name servers say tells more than that the hosts file has no such line.
                    let said = sources.contains("b") ? Failure(code: error.code, reason: error.reason) : failure
                    if step.isFinal, error.isFinal { return end(name, said, completion) }
                    run(rest, name, said, completion)
                }
            }
        }
    }

    private func end(_ name: String, _ failure: Failure?, _ completion: @escaping Completion) {
        let result: Result<[SocketAddress], Failure>
        if Self.isLocal(name), let v6 = IPAddress("::1"), let v4 = IPAddress("127.0.0.1") {
            let addresses = [v6, v4].filter { family() == AF_UNSPEC || $0.isIPv4 == (family() == AF_INET) }
            result = .success(addresses.map { SocketAddress($0, port: 0) })
        } else {
            result = .failure(failure ?? Failure(code: .unreachable, reason: "there is no such name"))
        }
        loop.later { completion(result) }
    }

    private static func isLocal(_ name: String) -> Bool {
        let name = name.hasSuffix(".") ? name.dropLast() : name[...]
        return name == "localhost" || name.hasSuffix(".localhost")
    }

    private func channel(_ sources: String) throws(StreamError) -> AresChannel {
        if let channel = channels[sources] { return channel }
        let channel = try AresChannel(sources: sources, files: files, patience: patience, on: loop)
        channels[sources] = channel
        return channel
    }

    /// What of IPv4 and IPv6 this machine has addresses of, beside the loopback's; there are name servers that never
    /// answer the other question (RFC 4074). Both where it has neither.
    private func family() -> Int32 {
        guard loop.now >= families.until else { return families.value }
        let outward = InterfaceAddress.all().filter { !$0.address.isLoopback }
        let hasIPv4 = outward.contains(where: \.address.isIPv4)
        let hasIPv6 = outward.contains { !$0.address.isIPv4 }
        families = (hasIPv4 == hasIPv6 ? AF_UNSPEC : hasIPv4 ? AF_INET : AF_INET6, loop.now &+ 1_000_000_000)
        return families.value
    }

    // MARK: Modules of the C library

    /// Has getent(1) ask them: `getent -s hosts:LINE ahosts NAME`.
    private func asked(modules line: String, _ name: String, _ completion: @escaping ([SocketAddress]) -> Void) {
        guard let program = files.getent else { return loop.later { completion([]) } }
        guard programs < limits.programs else {
            waitingForProgram.append { [self] in asked(modules: line, name, completion) }
            return
        }
        programs += 1
        let run = ProgramRun(
            Program(
                program,
                [program, "-s", "hosts:\(line)", "ahosts", name],
                environment: Program.currentEnvironment,
                group: .own
            ),
            timeout: limits.patience,
            errors: .tail(1 << 10)
        )
        let completion = LoopBound(completion, on: loop)
        let service = LoopBound(self, on: loop)
        let end = { @Sendable [loop] (addresses: [SocketAddress]) in
            loop.submit {
                service.withValue { $0.programEnded() }
                completion.withValue { $0(addresses) }
            }
        }
        do throws(SystemError) {
            try startOwnThread {
                let outcome = try? run.run()
                end(outcome?.status == .exited(0) ? Self.addresses(outcome?.output ?? []) : [])
            }
        } catch {
            // Every lookup would wait for this one here.
            end([])
        }
    }

    private func programEnded() {
        programs -= 1
        waitingForProgram.popFirst()?()
    }

    /// What `getent ahosts` prints: an address and the kind of socket on each line.
    static func addresses(_ output: [UInt8]) -> [SocketAddress] {
        var addresses: [SocketAddress] = []
        for line in LocalFile.lines(of: output) {
            let words = line.text.split(whereSeparator: \.isWhitespace)
            guard words.count >= 2, words[1] == "STREAM",
                let address = try? SocketAddress(ip: String(words[0]), port: 0),
                !addresses.contains(address)
            else { continue }
            addresses.append(address)
        }
        return addresses
    }
}
