import Foundation
import MeshIdentity
import Platform
import Synchronization
import TestDevices
import TestPeers
import Testing

@testable import Agent
@testable import Fleet
@testable import SSHSignal

/// A frame of the signaling protocol with any text in it.
private func frame(_ json: String) -> [UInt8] {
    withUnsafeBytes(of: UInt32(json.utf8.count).bigEndian) { Array($0) } + Array(json.utf8)
}

@Suite struct EnrollmentServiceTests {
    private func error(_ body: () async throws -> Void) async -> SignalError? {
        await #expect(throws: SignalError.self) { try await body() }
    }

    @Test func enrolsRenewsAndReports() async throws {
        let device = try LocalDevice()
        let (ack, certificate) = try await device.conversation(over: device.startSignal()).run(device.order())
        #expect(ack.node == "started")
        #expect(ack.unchanged == [])
        #expect(ack.hbone == [ack.listener])
        let first = try #require(try device.credential())
        #expect(first.id == device.id)
        #expect(first.notAfter == certificate.notAfter)
        #expect(NodeProcess.accepts(ack.listener))
        var status = stat()
        stat(device.state, &status)
        #expect(status.st_mode & 0o777 == 0o700)
        for file in ["node.log", "node.ready"] {
            stat(device.state + "/" + file, &status)
            #expect(status.st_mode & 0o777 == 0o600)
        }
        stat(device.state + "/identity/key.pem", &status)
        #expect(status.st_mode & 0o777 == 0o600)

        // Again: a new certificate and key, the same node.
        let process = device.nodeProcess
        let (again, _) = try await device.conversation(over: device.startSignal()).run(device.order())
        #expect(again.node == "running")
        #expect(again.unchanged == ["configuration", "node"])
        #expect(again.listener == ack.listener)
        #expect(device.nodeProcess == process)
        let second = try #require(try device.credential())
        #expect(second.leaf.serialNumber != first.leaf.serialNumber)

        // Another configuration: another process.
        let (changed, _) = try await device.conversation(over: device.startSignal()).run(device.order(ports: [22, 80]))
        #expect(changed.node == "restarted")
        #expect(device.nodeProcess != process)
        #expect(try device.directory.read("state/node.yaml").contains("ports: [22, 80]"))

        // A renewal needs no order.
        let (renewed, _) = try await device.conversation(over: device.startSignal()).run(
            .renew(id: device.id.description)
        )
        #expect(renewed.node == "running")
        #expect(renewed.id == device.id.description)

        // A node that died is started again.
        LocalDevice.stopNode(state: device.state)
        let (revived, _) = try await device.conversation(over: device.startSignal()).run(device.order(ports: [22, 80]))
        #expect(revived.node == "started")
    }

    /// Wherever the channel is cut, the credential is the old one or the new one, and the next enrolment works.
    @Test func cutAtEveryStepLeavesTheOldCredentialOrTheNewOne() async throws {
        let device = try LocalDevice()
        // Frames in each direction: device: hello, csr, ack; operator: hello and enroll, certificate, bye.
        let complete = CutChannel(try device.startSignal())
        _ = try await device.conversation(over: complete).run(device.order())
        var last = try #require(try device.credential())
        // In the middle of each frame, and around each end of one.
        var cuts: [(send: Int, receive: Int)] = []
        for part in 0...10 {
            cuts.append((complete.sent * part / 10, .max))
            cuts.append((.max, complete.received * part / 10))
        }
        var replaced = 0
        for (send, receive) in cuts {
            let channel = CutChannel(try device.startSignal(), sendLimit: send, receiveLimit: receive)
            let outcome = await Result { try await device.conversation(over: channel).run(device.order()) }
            let process = channel
            withExtendedLifetime(process) {}
            // The device finishes what it does; only then it can be looked at.
            try await device.settled()
            let now = try #require(try device.credential(), "the credential is gone after a cut at \(send)/\(receive)")
            #expect(now.id == device.id)
            if case .success = outcome { #expect(now.leaf.serialNumber != last.leaf.serialNumber) }
            if now.leaf.serialNumber != last.leaf.serialNumber { replaced += 1 }
            last = now
            let versions = try FileManager.default.contentsOfDirectory(atPath: device.state + "/identity")
                .filter { $0.hasPrefix("..version-") }
            #expect(versions.count == 1, "a key that was not used is left behind after a cut at \(send)/\(receive)")
        }
        #expect(replaced > 0 && replaced < cuts.count, "the cuts were all before, or all after the change")
        let (ack, _) = try await device.conversation(over: device.startSignal()).run(device.order())
        #expect(ack.node == "running")
    }

    @Test func firstEnrolmentThatIsCutLeavesNothingHalf() async throws {
        for cut in [50, 400, 900] {
            let device = try LocalDevice()
            let channel = CutChannel(try device.startSignal(), sendLimit: cut)
            await #expect(throws: (any Error).self) {
                _ = try await device.conversation(over: channel).run(device.order())
            }
            try await device.settled()
            #expect(try device.credential() == nil)
            #expect(device.nodeProcess == nil)
            _ = try await device.conversation(over: device.startSignal()).run(device.order())
            #expect(try device.credential() != nil)
        }
    }

    @Test(arguments: [-3, 3])
    func clockThatIsDaysOffIsSaid(days: Int64) async throws {
        let device = try LocalDevice()
        let clock = WallClock.system.advanced(by: days * 86_400)
        let error = await error {
            _ = try await device.conversation(over: try device.startSignal(), clock: clock).run(device.order())
        }
        #expect(error?.code == .clock)
        let text = "device clock is \(days > 0 ? "3 d 0 h behind" : "2 d 23 h ahead")"
        let other = "device clock is \(days > 0 ? "2 d 23 h behind" : "3 d 0 h ahead")"
        #expect(
            error?.message.contains(text) == true || error?.message.contains(other) == true,
            "\(error?.message ?? "")"
        )
        #expect(try device.credential() == nil)
    }

    @Test func certificateThatIsNotForTheKeyIsRefused() async throws {
        struct WrongKey: CertificateIssuer {
            let ca: EmbeddedCA
            func issue(
                _ request: CertificateRequest,
                id: SPIFFEID,
                options: IssuanceOptions
            ) async throws(IdentityError) -> IssuedCertificate {
                try ca.issue(
                    try CertificateRequest.create(key: PrivateKey.generate(), id: id),
                    id: id,
                    options: options
                )
            }
        }
        let device = try LocalDevice()
        var conversation = device.conversation(over: try device.startSignal())
        conversation = EnrollmentConversation(
            channel: conversation.channel,
            name: "dev",
            certification: Certification(name: "dev", id: device.id, issuer: WrongKey(ca: device.ca)),
            clock: .system,
            warn: { _ in }
        )
        let error = await error { _ = try await conversation.run(device.order()) }
        #expect(error?.code == .credential, "\(error?.message ?? "")")
        try await device.settled()
        #expect(try device.credential() == nil)
    }

    /// Everything is said, and the end of it finds no room at the device.
    @Test(.timeLimit(.minutes(10))) func aDeviceThatDoesNotReadTheEndHoldsNothingUp() async throws {
        let device = try LocalDevice()
        var limits = ConversationLimits.certifying
        limits.finish = .milliseconds(20)
        let conversation = EnrollmentConversation(
            channel: EndlessChannel(try device.startSignal()),
            name: "dev",
            certification: Certification(name: "dev", id: device.id, issuer: device.ca),
            clock: .system,
            limits: limits,
            warn: { _ in }
        )
        let (ack, _) = try await conversation.run(device.order())
        #expect(ack.node == "started")
        try await device.settled()
    }

    @Test func nodeThatDoesNotComeUpIsReportedWithItsLog() async throws {
        let device = try LocalDevice()
        let taken = try LoopbackPort()
        let order = EnrollmentOperator.Purpose.enroll(
            .init(id: device.id.description, node: .init(bind: "127.0.0.1", port: taken.port))
        )
        let error = await error { _ = try await device.conversation(over: try device.startSignal()).run(order) }
        #expect(error?.code == .node)
        #expect(error?.isFromPeer == true)
        #expect(error?.message.contains("the node ended at once") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("\(taken.port)") == true, "\(error?.message ?? "")")
        #expect(try device.credential() != nil, "the credential was stored before")
        #expect(device.nodeProcess == nil)
    }

    @Test func aNodeThatGoesOnBesideOneThatDoesNotComeUpIsNamed() async throws {
        let device = try LocalDevice()
        _ = try await device.conversation(over: device.startSignal()).run(device.order())
        let (process, configuration) = (device.nodeProcess, try device.directory.read("state/node.yaml"))
        let taken = try LoopbackPort()
        let order = EnrollmentOperator.Purpose.enroll(
            .init(id: device.id.description, node: .init(bind: "127.0.0.1", port: taken.port))
        )
        let error = await error { _ = try await device.conversation(over: try device.startSignal()).run(order) }
        let message = error?.message ?? ""
        #expect(
            message.contains("The node that ran before goes on as it was. The new credential is stored"),
            "\(message)"
        )
        // Why, and not all that the other one logged.
        #expect(message.contains("\(taken.port)") && !message.contains("libcrypto"), "\(message)")
        #expect(device.nodeProcess == process)
        #expect(try device.directory.read("state/node.yaml") == configuration)
    }

    @Test(arguments: [
        ("2026 notice starting\n2026 warning slow\nerror: address in use\n  on lo\n", "address in use on lo"),
        ("2026 notice starting\nIllegal instruction\n", "Illegal instruction"), ("\n", ""),
    ])
    func theReasonIsOneOfTheLog(log: String, reason: String) {
        #expect(NodeProcess.reason(in: Array(log.utf8)) == reason)
    }

    @Test func whatWasChangedByHandIsLeftAloneByAllow() async throws {
        let device = try LocalDevice()
        _ = try await device.conversation(over: device.startSignal()).run(device.order())
        let changed = try device.directory.read("state/node.yaml") + "# mine\n"
        try device.directory.write("state/node.yaml", changed)
        let before = try #require(try device.credential())
        let node = SignalMessage.NodeRequest(allowPorts: [80], keeps: ["bind", "port", "renewFrom", "allow"])
        let id = device.id.description
        let error = await error {
            _ = try await device.conversation(over: try device.startSignal()).run(.enroll(.init(id: id, node: node)))
        }
        #expect(error?.code == .refused && error?.isFromPeer == true)
        #expect(error?.message.contains("node.yaml was changed by hand") == true, "\(error?.message ?? "")")
        try await device.settled()
        #expect(try device.directory.read("state/node.yaml") == changed)
        #expect(try device.credential()?.leaf.serialNumber == before.leaf.serialNumber)

        // An enrolment writes it anew, and says so.
        let (ack, _) = try await device.conversation(over: device.startSignal()).run(
            .enroll(.init(id: id, node: node, service: "none"))
        )
        #expect(ack.warnings?.contains { $0.contains("was changed by hand") } == true, "\(ack.warnings ?? [])")
        #expect(ack.allowed == ["22", "80"])
        #expect(ack.gateways == [])
        #expect(try !device.directory.read("state/node.yaml").contains("# mine"))
    }

    /// What others may reach changes, and nothing else: neither key nor certificate.
    @Test func accessIsChangedWithoutACertificate() async throws {
        let device = try LocalDevice()
        _ = try await device.conversation(over: device.startSignal()).run(device.order())
        let before = try #require(try device.credential())
        let id = device.id.description
        let allow = SignalMessage.Access(id: id, allow: ["80", "10.0.0.9:554"])
        let more = try await device.conversation(over: device.startSignal()).change(allow)
        #expect(more.allowed == ["22", "80", "10.0.0.9:554"])
        #expect(more.node == "restarted" && more.allowedBefore == ["22"])
        #expect(try device.directory.read("state/node.yaml").contains("ports: [22, 80]"))
        let deny = SignalMessage.Access(id: id, deny: ["22", "10.0.0.9:554"])
        let less = try await device.conversation(over: device.startSignal()).change(deny)
        #expect(less.allowed == ["80"])
        let same = try await device.conversation(over: device.startSignal()).change(deny)
        #expect(same.allowed == ["80"] && same.unchanged == ["configuration", "node"])
        #expect(less.allowedBefore == ["22", "80", "10.0.0.9:554"] && same.allowedBefore == ["80"])
        #expect(try device.credential()?.leaf.serialNumber == before.leaf.serialNumber)

        // Of another identity, of a file that is somebody's, and of what is no place: refused, and nothing changes.
        let text = try device.directory.read("state/node.yaml")
        for (order, mention) in [
            (SignalMessage.Access(id: id + "2", allow: ["1"]), "by now, and not"),
            (SignalMessage.Access(id: id, allow: ["nonsense"]), "no port and no host:port"),
        ] {
            let error = await error {
                _ = try await device.conversation(over: try device.startSignal()).change(order)
            }
            #expect(error?.code == .refused && error?.message.contains(mention) == true, "\(error?.message ?? "")")
            try await device.settled()
            #expect(try device.directory.read("state/node.yaml") == text)
        }
        // A certificate that is damaged is named, in a change as in a renewal.
        let chain = "\(device.state)/identity/cert-chain.pem"
        let pem = try String(contentsOfFile: chain, encoding: .utf8)
        func write(_ text: String) throws {
            // In its place: it is a link.
            try Data(text.utf8).write(to: URL(filePath: chain))
        }
        try write("")
        let broken = await error { _ = try await device.conversation(over: try device.startSignal()).change(allow) }
        #expect(broken?.message.contains("\(chain): ") == true, "\(broken?.message ?? "")")
        try await device.settled()
        let late = await error { _ = try await device.conversation(over: try device.startSignal()).run(.renew(id: id)) }
        #expect(late?.message.contains("\(chain): ") == true, "\(late?.message ?? "")")
        try await device.settled()
        try write(pem)
        try device.directory.write("state/node.yaml", text + "# mine\n")
        let mine = await error { _ = try await device.conversation(over: try device.startSignal()).change(allow) }
        #expect(mine?.code == .refused && mine?.message.contains("changed by hand") == true, "\(mine?.message ?? "")")
    }

    @Test func secondOperatorIsTold() async throws {
        let device = try LocalDevice()
        // Holds the lock as an enrolment that is under way does.
        try FileManager.default.createDirectory(atPath: device.state, withIntermediateDirectories: true)
        let lock = try FileLock(directory: device.state, patience: .zero)
        let error = await error {
            _ = try await device.conversation(over: try device.startSignal()).run(device.order())
        }
        withExtendedLifetime(lock) {}
        #expect(error?.code == .refused)
        #expect(error?.message.contains("another enrolment") == true)
    }

    /// The same where the other is done while this one waits: what it has decided stays.
    @Test func anOperatorWhoHasWaitedDoesNotUndoWhatTheOtherHasDone() async throws {
        let device = try LocalDevice()
        try device.directory.makeDirectory("state/identity")
        let lock = try FileLock(directory: device.state, patience: .zero)
        let channel = try device.startSignal()
        let waiting = Task { try await device.conversation(over: channel).run(device.order()) }
        let files = "/proc/\(channel.process.pid)/fd"
        try await eventually("it waits for the lock") {
            try FileManager.default.contentsOfDirectory(atPath: files).contains {
                (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(files)/\($0)")) == device.state
            }
        }
        try device.directory.write("state/identity/cert-chain.pem", "another's")
        lock.unlock()
        let error = await error { _ = try await waiting.value }
        #expect(error?.code == .refused && error?.isFromPeer == true)
        #expect(error?.message.contains("has just given it a certificate") == true, "\(error?.message ?? "")")
        #expect(try device.directory.read("state/identity/cert-chain.pem") == "another's")
    }

    /// Its process was the shell's that took it.
    @Test(arguments: [true, false])
    func theInstallersLockEndsWithTheConversation(isItsOwn: Bool) async throws {
        let device = try LocalDevice()
        let channel = try device.startSignal()
        let owner = isItsOwn ? channel.process.pid : getpid()
        try device.directory.makeDirectory(".lock")
        try device.directory.write(".lock/owner", "\(owner) 00000000-0000-0000-0000-000000000000 0\n")
        _ = try await device.conversation(over: channel).run(device.order())
        try await device.settled()
        #expect(FileManager.default.fileExists(atPath: device.state + "/../.lock") != isItsOwn)
    }

    /// What is wrong with a message is told to the one who sent it, and nothing was made.
    @Test(
        arguments: [
            ([0x00, 0x20, 0x00, 0x00], "too-long"), (frame("[]"), "malformed"),
            (frame("{\"type\":\"csr\"}"), "malformed"),
            (frame("{\"type\":\"bye\"}"), "unexpected"), (frame("nonsense"), "malformed"),
        ] as [([UInt8], String)]
    )
    func badMessages(frame: [UInt8], code: String) async throws {
        let device = try LocalDevice()
        let channel = try device.startSignal()
        try await channel.write(frame)
        var decoder = SignalFrameDecoder()
        var messages: [SignalMessage] = []
        while let bytes = try await channel.read() {
            decoder.append(bytes)
            while let message = try decoder.next() { messages.append(message) }
        }
        #expect(messages.first?.type == "hello")
        guard case .error(let failure) = messages.last else {
            Issue.record("there is no error message: \(messages)")
            return
        }
        #expect(failure.code == code)
        #expect(try await channel.process.exit() == .exited(1))
        #expect(!FileManager.default.fileExists(atPath: device.state))
    }

    @Test func inputThatEndsInsideAMessage() async throws {
        let device = try LocalDevice()
        let channel = try device.startSignal()
        try await channel.write([0, 0, 1])
        await channel.finish()
        #expect(try await channel.process.exit() == .exited(1))
        #expect(await channel.standardErrorText().contains("inside a message"))
    }
}

/// A TCP port on which something else listens.
final class LoopbackPort {
    let port: UInt16
    private let descriptor: Int32

    init() throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        self.descriptor = descriptor
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, length) == 0 && listen(descriptor, 1) == 0
                    && getsockname(descriptor, address, &length) == 0
            }
        }
        guard bound else { throw DeadlineExceeded("no port to listen on") }
        port = UInt16(bigEndian: address.sin_port)
    }

    deinit { close(descriptor) }
}
