import Foundation
import MeshIdentity
import Platform
import Synchronization
import TestPeers
import Testing

@Suite struct CredentialDirectories {
    private let directory = TemporaryDirectory()
    private let ca: EmbeddedCA
    private let id: SPIFFEID

    init() throws {
        let domain = try TrustDomain("mesh.example")
        ca = try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds)
        id = try SPIFFEID(trustDomain: domain, namespace: "prod", name: "db")
    }

    private var credentials: CredentialDirectory { CredentialDirectory(directory.path("identity")) }

    @discardableResult
    private func renew(_ target: CredentialDirectory? = nil) throws -> Credential {
        let pending = try (target ?? credentials).prepare(id: id)
        let issued = try ca.issue(pending.request, id: id)
        return try pending.commit(chain: issued.chain, roots: issued.roots)
    }

    private func entries() throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: credentials.path).sorted()
    }

    private func versions() throws -> [String] { try entries().filter { $0.hasPrefix("..version-") } }

    // MARK: Reading and writing

    @Test func whatIsCommittedIsLoaded() throws {
        let committed = try renew()
        let loaded = try credentials.load()
        #expect(loaded.id == id)
        #expect(loaded.leaf == committed.leaf)
        #expect(try loaded.key.pem() == committed.key.pem())
        #expect(loaded.bundle.roots == ca.roots)
        #expect(loaded.notAfter - loaded.notBefore == 86400 + 120)
    }

    @Test func otherToolsFindIstiosNames() async throws {
        let committed = try renew()
        let written = try directory.read("identity/key.pem")
        #expect(try written == String(decoding: committed.key.pem(), as: UTF8.self))
        let verified = try await ChildProcess.run(
            "openssl",
            ["verify", "-CAfile", "root-cert.pem", "cert-chain.pem"],
            directory: credentials.path
        )
        #expect(verified.succeeded, "\(verified.standardError)")
        for (name, mode) in [("key.pem", 0o600), ("cert-chain.pem", 0o644), ("root-cert.pem", 0o644)]
            as [(String, UInt32)]
        {
            var status = stat()
            try #require(stat("\(credentials.path)/\(name)", &status) == 0)
            #expect(status.st_mode & 0o7777 == mode, "\(name)")
        }
    }

    @Test func theUmaskDoesNotOpenTheKey() async throws {
        // In a process of its own: the umask is the whole process's.
        await #expect(processExitsWith: .success) { [path = credentials.path as String] in
            umask(0)
            let ca = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: WallClock.system.seconds)
            let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
            let pending = try CredentialDirectory(path).prepare(id: id)
            let issued = try ca.issue(pending.request, id: id)
            _ = try pending.commit(chain: issued.chain, roots: issued.roots)
            var status = stat()
            try #require(stat("\(path)/key.pem", &status) == 0 && status.st_mode & 0o7777 == 0o600)
        }
    }

    @Test func aRenewalReplacesAllThree() throws {
        let first = try renew()
        let second = try renew()
        #expect(first.leaf != second.leaf)
        #expect(try credentials.load().leaf == second.leaf)
        #expect(try versions().count == 1)
        #expect(try entries().count == 5)
    }

    @Test func aCredentialMadeElsewhereCanBeWritten() throws {
        let made = try renew()
        let copy = CredentialDirectory(directory.path("copy"))
        try copy.write(made)
        #expect(try copy.load().leaf == made.leaf)
    }

    @Test func nothingThereIsSaidSo() throws {
        let absent = #expect(throws: IdentityError.self) { try credentials.load() }
        #expect(absent?.code == .notFound)
        try directory.makeDirectory("identity")
        let empty = #expect(throws: IdentityError.self) { try credentials.load() }
        #expect(empty?.code == .notFound)
        try directory.write("file", "")
        #expect(throws: IdentityError.self) { try CredentialDirectory(directory.path("file")).prepare(id: id) }
        #expect(throws: IdentityError.self) { try CredentialDirectory(directory.path("file")).load() }
    }

    // MARK: A key that waits

    @Test func aPendingKeyDoesNotDisturb() throws {
        let current = try renew()
        let pending = try credentials.prepare(id: id)
        #expect(try credentials.load().leaf == current.leaf)
        #expect(try pending.request.requestedID() == id)
        #expect(try versions().count == 2)
        // Another one, committed meanwhile, does not take the first away.
        let second = try renew()
        #expect(try credentials.load().leaf == second.leaf)
        let issued = try ca.issue(pending.request, id: id)
        let first = try pending.commit(chain: issued.chain, roots: issued.roots)
        #expect(try credentials.load().leaf == first.leaf)
    }

    @Test func aDroppedPendingKeyIsRemoved() throws {
        let current = try renew()
        _ = try credentials.prepare(id: id)
        #expect(try versions().count == 1)
        #expect(try credentials.load().leaf == current.leaf)
    }

    @Test func aDirectoryThatWasMadeForNothingIsRemoved() throws {
        _ = try credentials.prepare(id: id)
        #expect(!FileManager.default.fileExists(atPath: credentials.path))
        // One that was there stays, and so does one that has a credential by now.
        try directory.makeDirectory("identity")
        _ = try credentials.prepare(id: id)
        #expect(try entries().isEmpty)
        try FileManager.default.removeItem(atPath: credentials.path)
        let made = try renew()
        #expect(try credentials.load().leaf == made.leaf)
    }

    @Test func aPendingKeyOfADeadProcessIsRemoved() async throws {
        await #expect(processExitsWith: .signal(SIGKILL)) { [path = credentials.path as String] in
            let pending = try CredentialDirectory(path).prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/db"))
            withExtendedLifetime(pending) { _ = raise(SIGKILL) }
        }
        #expect(try versions().count == 1)
        try renew()
        #expect(try versions().count == 1)
        #expect(try credentials.load().id == id)
    }

    @Test func aCertificateThatDoesNotFitIsRefused() throws {
        let current = try renew()
        let pending = try credentials.prepare(id: id)
        let admin = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/admin")
        let stranger = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let now = WallClock.system.seconds
        let issued = try ca.issue(pending.request, id: id)
        let rogue = try EmbeddedCA(trustDomain: ca.trustDomain, now: now)
        var refusals: [(IdentityError.Code, () throws -> Void)] = []
        func refused(
            _ code: IdentityError.Code,
            _ chain: [Certificate],
            _ roots: [Certificate]? = nil,
            at time: Int64? = nil
        ) {
            refusals.append((code, { _ = try pending.commit(chain: chain, roots: roots ?? ca.roots, at: time) }))
        }
        refused(.invalidCertificate, [])
        refused(.invalidCertificate, issued.chain, [])
        refused(.invalidCertificate, issued.chain, rogue.roots)
        refused(.keyMismatch, try ca.issue(stranger, id: id).chain)
        refused(.expired, issued.chain, at: now + 86400 + 60)
        refused(.notYetValid, issued.chain, at: now - 3600)
        for (code, attempt) in refusals {
            let error = #expect(throws: IdentityError.self, performing: attempt)
            #expect(error?.code == code)
            #expect(try credentials.load().leaf == current.leaf)
        }
        // For our key, by our CA, but for somebody else: a CA that is not ours to command may do that.
        let nameless = try CertificateRequest(pem: Self.namelessRequest(key: pending, in: directory))
        let other = try ca.issue(nameless, id: admin)
        let error = #expect(throws: IdentityError.self) {
            _ = try pending.commit(chain: other.chain, roots: other.roots)
        }
        #expect(error?.code == .refused)
        #expect(error?.message.contains("is for \(admin), but \(id) was asked for") == true)
        // None of these spoils the pending key.
        let committed = try pending.commit(chain: issued.chain, roots: issued.roots)
        #expect(try credentials.load().leaf == committed.leaf)
        let twice = #expect(throws: IdentityError.self) {
            _ = try pending.commit(chain: issued.chain, roots: issued.roots)
        }
        #expect(twice?.code == .alreadyExists)
    }

    /// A request with the pending key that names nobody, made by openssl.
    private static func namelessRequest(
        key pending: PendingCredential,
        in directory: TemporaryDirectory
    ) throws -> [UInt8] {
        let identity = directory.path("identity")
        let version = try FileManager.default.contentsOfDirectory(atPath: identity).first {
            $0.hasPrefix("..version-")
                && (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(identity)/..data")) != $0
        }
        let process = Process()
        let output = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["openssl", "req", "-new", "-subj", "/", "-key", "\(identity)/\(version ?? "")/key.pem"]
        process.standardOutput = output
        try process.run()
        let pem = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return [UInt8](pem)
    }

    // MARK: What others put there

    private func writePlain(_ kind: TestCertificates.Kind = .client) throws {
        for (name, mode) in [("key.pem", 0o600), ("cert-chain.pem", 0o644), ("root-cert.pem", 0o644)]
            as [(String, UInt32)]
        {
            let bytes = try AtomicFile.read("\(TestCertificates.shared.path(kind))/\(name)")
            try directory.write("identity/\(name)", bytes, permissions: mode)
        }
    }

    @Test func plainFilesAreReadAndTakenOver() throws {
        try writePlain()
        let plain = try credentials.load()
        #expect(plain.leaf == (try TestCertificates.shared.chain(.client)[0]))
        let renewed = try renew()
        #expect(try credentials.load().leaf == renewed.leaf)
        #expect(
            try FileManager.default.destinationOfSymbolicLink(atPath: "\(credentials.path)/key.pem") == "..data/key.pem"
        )
        // A tool that puts plain files back is obeyed.
        for name in try entries() where !name.hasPrefix(".") { unlink("\(credentials.path)/\(name)") }
        try writePlain(.server)
        #expect(try credentials.load().id.serviceAccount == "server")
    }

    @Test(arguments: [0o640, 0o604, 0o660, 0o644] as [UInt32])
    func aKeyThatOthersCanReadIsRefused(_ mode: UInt32) throws {
        try writePlain()
        chmod("\(credentials.path)/key.pem", mode)
        let error = #expect(throws: IdentityError.self) { try credentials.load() }
        #expect(error?.code == .permissions)
        #expect(error?.message.contains("chmod 600 \(credentials.path)/key.pem") == true)
    }

    /// Whoever can add a root can be anybody.
    @Test(arguments: [("root-cert.pem", 0o664), ("root-cert.pem", 0o646), ("ca-crl.pem", 0o666)] as [(String, UInt32)])
    func whomOthersCanHaveTrustedIsRefused(_ name: String, _ mode: UInt32) throws {
        try writePlain()
        let path = "\(credentials.path)/\(name)"
        #expect(throws: Never.self) { try credentials.load() }
        // Not read any further.
        if name == "ca-crl.pem" { _ = try directory.write("identity/ca-crl.pem", "no list") }
        chmod(path, mode)
        let error = #expect(throws: IdentityError.self) { try credentials.load() }
        #expect(error?.code == .permissions)
        #expect(error?.message.contains("chmod go-w \(path)") == true, "\(String(describing: error))")
    }

    static let unusable: [(TestCertificates.Kind, IdentityError.Code)] = [
        (.expired, .expired), (.notYetValid, .notYetValid), (.rogue, .invalidCertificate), (.isCA, .invalidCertificate),
        (.noSAN, .invalidCertificate), (.missingIntermediate, .invalidCertificate), (.twoSANs, .invalidCertificate),
    ]

    @Test(arguments: unusable)
    func whatPeersWouldRefuseIsRefusedHere(_ kind: TestCertificates.Kind, _ code: IdentityError.Code) throws {
        try writePlain(kind)
        let error = #expect(throws: IdentityError.self) { try credentials.load() }
        #expect(error?.code == code)
    }

    @Test func anIntermediateAndTwoRootsAreLoaded() throws {
        try writePlain(.intermediate)
        #expect(try credentials.load().chain.count == 2)
        try writePlain(.nextRoot)
        #expect(try credentials.load().bundle.roots.count == 2)
    }

    @Test func damagedFilesAreNamed() throws {
        try writePlain()
        try directory.write("identity/key.pem", try PrivateKey.generate().pem(), permissions: 0o600)
        #expect(#expect(throws: IdentityError.self) { try credentials.load() }?.code == .keyMismatch)
        let encrypted = try PrivateKey.generate().pem(encryptedWith: Passphrase("x"))
        try directory.write("identity/key.pem", encrypted, permissions: 0o600)
        #expect(#expect(throws: IdentityError.self) { try credentials.load() }?.code == .passphraseRequired)
        try directory.write("identity/key.pem", "rubbish", permissions: 0o600)
        let error = #expect(throws: IdentityError.self) { try credentials.load() }
        #expect(error?.code == .invalidKey)
        #expect(error?.message.contains(credentials.path) == true && error?.message.contains("key.pem: ") == true)
        for name in ["cert-chain.pem", "root-cert.pem"] {
            try writePlain()
            for text in ["", "-----BEGIN CERTIFICATE-----\nMIIB\n"] {
                try directory.write("identity/\(name)", text)
                let damaged = #expect(throws: IdentityError.self) { try credentials.load() }
                #expect(damaged?.message.contains("\(name): ") == true, "\(damaged?.message ?? "")")
            }
        }
        try writePlain()
        unlink("\(credentials.path)/root-cert.pem")
        let missing = #expect(throws: IdentityError.self) { try credentials.load() }
        #expect(missing?.message.contains("root-cert.pem") == true)
        try directory.write("identity/root-cert.pem", String(repeating: "x", count: (1 << 20) + 1))
        #expect(#expect(throws: IdentityError.self) { try credentials.load() }?.code == .file)
    }

    // MARK: Crashes

    static let startings = ["empty", "plain", "versioned"]

    /// A process is killed before each step of a renewal. Whoever loads then finds the old credential or the new one,
    /// and the next renewal works and leaves no trace of it.
    @Test(arguments: WriteStep.allCases, startings)
    func aCrashLeavesOldOrNew(_ step: WriteStep, _ starting: String) async throws {
        switch starting {
        case "plain": try writePlain()
        case "versioned": try renew()
        default: break
        }
        let before = try? credentials.load().leaf
        // Each start takes its own steps: links are made once, plain files are adopted once.
        let happens: Bool
        switch step {
        case .adoptPlainFiles, .linkAdopted: happens = starting == "plain"
        case .linkChain, .linkRoots, .linkKey: happens = starting != "versioned"
        default: happens = true
        }
        let arguments = [credentials.path, step.rawValue]
        await #expect(processExitsWith: happens ? .signal(SIGKILL) : .success) { [arguments = arguments as [String]] in
            var credentials = CredentialDirectory(arguments[0])
            credentials.willTake = { if $0.rawValue == arguments[1] { raise(SIGKILL) } }
            let ca = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: WallClock.system.seconds)
            let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/new")
            let pending = try credentials.prepare(id: id)
            let issued = try ca.issue(pending.request, id: id)
            _ = try pending.commit(chain: issued.chain, roots: issued.roots)
        }
        let isCommitted = !happens || step == .synchronize || step == .removeStale
        let after = try? credentials.load()
        if isCommitted {
            #expect(after?.id.serviceAccount == "new")
        } else {
            #expect(after?.leaf == before)
        }
        // What other tools read through the three names belongs together as well.
        if after != nil {
            let names = try Credential(
                key: PrivateKey(pem: AtomicFile.read("\(credentials.path)/key.pem")),
                chain: Certificate.all(pem: AtomicFile.read("\(credentials.path)/cert-chain.pem")),
                roots: Certificate.all(pem: AtomicFile.read("\(credentials.path)/root-cert.pem"))
            )
            #expect(names.leaf == after?.leaf)
        }
        let renewed = try renew()
        #expect(try credentials.load().leaf == renewed.leaf)
        #expect(
            try entries().filter { !$0.hasPrefix("..version-") } == [
                "..data", "cert-chain.pem", "key.pem", "root-cert.pem",
            ]
        )
        #expect(try versions().count == 1)
    }

    @Test func readersAndWritersAtOnceAgree() throws {
        try renew()
        let isDone = Atomic(false)
        let failures = Mutex<[String]>([])
        let finished = DispatchSemaphore(value: 0)
        // Threads, because tasks of one small pool would take turns instead.
        for _ in 0..<2 {
            Thread {
                while !isDone.load(ordering: .relaxed) {
                    do { try renew() } catch { failures.withLock { $0.append("\(error)") } }
                }
                finished.signal()
            }.start()
        }
        var seen: Set<String> = []
        let deadline = ContinuousClock.now + .seconds(60)
        while seen.count < 50, ContinuousClock.now < deadline {
            do { seen.insert(try credentials.load().leaf.fingerprint) } catch {
                failures.withLock { $0.append("\(error)") }
            }
        }
        isDone.store(true, ordering: .relaxed)
        for _ in 0..<2 { finished.wait() }
        #expect(failures.withLock { $0 } == [])
        #expect(seen.count == 50)
        #expect(try versions().count == 1)
    }

    @Test func aFullDiskLeavesTheOldCredential() async throws {
        let current = try renew()
        // A limit on file sizes fails writes as a full disk does: the second byte of anything is too much.
        await #expect(processExitsWith: .success) { [path = credentials.path as String] in
            signal(SIGXFSZ, SIG_IGN)
            var limit = rlimit(rlim_cur: 1, rlim_max: 1)
            setrlimit(__rlimit_resource_t(1), &limit)
            let error = #expect(throws: IdentityError.self) {
                try CredentialDirectory(path).prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/db"))
            }
            try #require(error?.code == .file)
        }
        #expect(try credentials.load().leaf == current.leaf)
        try renew()
        #expect(try versions().count == 1)
    }
}
