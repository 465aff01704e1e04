import Glibc
import MeshIdentity
import Platform
import Streams

/// The file with what the CA no longer stands by: made of the ledger, signed by the CA, kept beside its certificate.
///
/// Ledger and list are two files, and a command can end between the two. So whoever has the CA's key compares them
/// before it does anything else (``reconcile(warn:)``).
package struct RevocationPublisher: Sendable {
    private let authority: LiveCA
    private let ledger: Ledger
    /// How long to wait for another process that writes a list.
    package var patience = Duration.seconds(10)
    /// How many bytes the lists may have; another number is for tests.
    var maximumLength = RevocationList.maximumLength
    /// Shared by all copies: of many devices that are renewed in one run, the list is read for the first.
    private let memory = Lock(Memory())

    /// What was read last, and of which files: a list may have some 300,000 certificates.
    private struct Memory {
        var stamp: FileStamp?
        var lists: PresentLists?
        var readings = 0
    }

    /// How often the file was read, for tests.
    var readings: Int { memory.withLock { $0.readings } }

    package init(authority: LiveCA, ledger: Ledger) {
        self.authority = authority
        self.ledger = ledger
    }

    private var directory: String { authority.directory }
    /// The file.
    package var path: String { "\(directory)/ca-crl.pem" }

    /// The lists that were written last, in PEM form; nil without any, and where nobody is to be given them.
    package var present: [UInt8]? {
        (try? presentLists())?.pem
    }

    /// Peers of ours go on with a list that is older; others, such as Envoy, refuse everybody then. Every renewal
    /// brings a new one.
    private static let validity: Int64 = 30 * 24 * 60 * 60

    /// How long after its end a certificate stays on a list that would be too long with ``Ledger/keptAfterEnd``, in
    /// seconds: an hour, for clocks that are behind.
    private static let leastAfterEnd: Int64 = 60 * 60

    /// Writes a new list of everything that is revoked and has not ended.
    ///
    /// - Returns: The lists in PEM form.
    package func publish() throws(LedgerError) -> [UInt8] {
        try locked { () throws(LedgerError) in try write() }
    }

    /// Has ledger and list say the same: the ledger takes over what only the list knows, and the list is written where
    /// it lacks something. Nearly always nothing is written.
    ///
    /// - Parameter warn: Told that the list was written, and that it could not be: others are not kept from their
    ///   certificates for it.
    /// - Throws: where the list is damaged, or the ledger cannot be used.
    package func reconcile(warn: (String) -> Void) throws(LedgerError) {
        let present = try presentLists()
        _ = try takeOver(present.signed, from: path)
        let unlisted = try comparison(of: present).unlisted
        guard !unlisted.isEmpty else { return }
        do throws(LedgerError) {
            try locked { () throws(LedgerError) in
                // Whoever had the lock may have written it.
                guard try !comparison().unlisted.isEmpty else { return }
                _ = try write()
                warn(
                    "the CA's revocation list has \(counted(unlisted.count, "certificate")) now that only the ledger had as revoked, since a "
                        + "command was ended between the two. `bootstrap revoke`, without a name, brings it to everybody; so does the next renewal"
                )
            }
        } catch {
            warn(Self.remark(onUnlisted: unlisted, error))
        }
    }

    /// What is to be said where a list lacks somebody, and cannot be written.
    static func remark(onUnlisted certificates: [LedgerCertificate], _ error: LedgerError) -> String {
        "no device refuses \(counted(certificates.count, "certificate")) yet that the ledger has as revoked: \(error.message). When that is over: "
            + "`bootstrap revoke`, without a name, writes the list and brings it to everybody"
    }

    /// What ledger and list say differently.
    package func comparison() throws(LedgerError) -> ListComparison { try comparison(of: presentLists()) }

    private func comparison(of lists: PresentLists) throws(LedgerError) -> ListComparison {
        let signers: [Certificate]
        do throws(IdentityError) {
            signers = try EmbeddedCA.signers(directory: directory)
        } catch {
            throw LedgerError(.file, error.message)
        }
        return try ListComparison(of: lists, signers, ledger)
    }

    private func presentLists() throws(LedgerError) -> PresentLists {
        // Before anything is read: what changes meanwhile is seen the next time.
        let stamp = FileStamp(
            of: [EmbeddedCA.revocationsFile, "root-cert.pem", "ca-cert.pem"].map { "\(directory)/\($0)" }
        )
        if let known = memory.withLock({ $0.stamp == stamp ? $0.lists : nil }) { return known }
        let roots: [Certificate]
        do throws(IdentityError) {
            roots = try authority.roots()
        } catch {
            throw LedgerError(.file, error.message)
        }
        let lists = try PresentLists(directory: directory, roots: roots)
        memory.withLock { memory in
            (memory.stamp, memory.lists) = (stamp, lists)
            memory.readings += 1
        }
        return lists
    }

    private func locked<Outcome>(_ body: () throws(LedgerError) -> Outcome) throws(LedgerError) -> Outcome {
        let lock: FileLock
        do throws(FileError) {
            // Two operators at once: the list with the higher number is the later one, and has what both revoked.
            lock = try FileLock(directory: directory, patience: patience)
        } catch {
            throw LedgerError(error.code == .timedOut ? .busy : .file, error.message)
        }
        defer { withExtendedLifetime(lock) {} }
        return try body()
    }

    /// Takes over into the ledger what lists that this CA has signed say, and the ledger does not know: an earlier copy
    /// of it was put back, or it was lost.
    ///
    /// - Parameters:
    ///   - lists: In PEM form. What no root of the CA has signed counts for nothing.
    ///   - place: Where they were found, for people.
    /// - Returns: How many certificates the ledger had not as revoked.
    @discardableResult
    package func takeOver(_ lists: [UInt8], from place: String) throws(LedgerError) -> Int {
        let found: [(list: RevocationList, root: Certificate)]
        do throws(IdentityError) {
            let roots = try authority.roots()
            found = try RevocationList.all(pem: lists).compactMap { list in
                roots.first { list.isSigned(by: $0) }.map { (list, $0) }
            }
        } catch {
            throw LedgerError(.file, "\(place): \(error.message)")
        }
        return try takeOver(found, from: place)
    }

    private func takeOver(
        _ lists: [(list: RevocationList, root: Certificate)],
        from place: String
    ) throws(LedgerError) -> Int {
        var count = 0
        for (list, root) in lists {
            count += try ledger.takeOver(
                list,
                of: root.subjectKeyIdentifier ?? "",
                endingBefore: root.notAfter,
                from: place
            )
        }
        return count
    }

    /// The same for the file beside the CA's certificate.
    package func takeOverPresent() throws(LedgerError) {
        _ = try takeOver(try presentLists().signed, from: path)
    }

    /// Until the task is cancelled: ``reconcile(warn:)`` whenever the file or the ledger has changed.
    ///
    /// - Parameter warn: Told what is wrong, once.
    package func keepReconciled(warn: @Sendable (String) -> Void) async {
        var seen: FileStamp?
        var said: String?
        repeat {
            let stamp = FileStamp(of: [path, ledger.path])
            guard stamp != seen else { continue }
            var problem: String?
            do throws(LedgerError) {
                try reconcile { problem = $0 }
            } catch {
                problem = error.message
            }
            // The stamp from before, and only now: what was written meanwhile is news, and so is everything after a
            // failure. What it has written itself costs another look.
            if problem == nil { seen = stamp }
            if let problem, problem != said { warn(problem) }
            said = problem
        } while (try? await Task.sleep(for: .seconds(2))) != nil
    }

    /// What a visit does with the lists that a device has: the CA has signed them, whoever has forgotten it.
    package func learn(_ lists: [UInt8], from device: String, warn: @Sendable (String) -> Void) {
        do throws(LedgerError) {
            guard (try? RevocationList.all(pem: lists)) != nil else { return }
            let count = try takeOver(lists, from: "the device \(device)")
            guard count > 0 else { return }
            _ = try publish()
            warn(
                "\(device) has a revocation list with \(counted(count, "certificate")) that the ledger did not know to be revoked: they are on "
                    + "the CA's list again, and `bootstrap revoke`, without a name, brings it to everybody"
            )
        } catch {
            warn("what the revocation list of \(device) says is not taken over: \(error.message)")
        }
    }

    /// Under the lock.
    private func write() throws(LedgerError) -> [UInt8] {
        let present = try presentLists()
        _ = try takeOver(present.signed, from: path)
        do throws(IdentityError) {
            let authorities = try authority.authorities()
            var lists = try lists(of: authorities, after: present, keeping: Ledger.keptAfterEnd)
            // What has ended is the first to go.
            if lists.count > maximumLength {
                lists = try self.lists(of: authorities, after: present, keeping: Self.leastAfterEnd)
            }
            guard lists.count <= maximumLength else {
                throw IdentityError(
                    .refused,
                    "the revocation list would have \(lists.count) bytes, and nobody reads more than \(maximumLength): \(path) "
                        + "stays as it is. It gets shorter when certificates end; `bootstrap ca rotate` begins another list"
                )
            }
            try fileWork(AtomicFile.write(lists, to: path))
            return lists
        } catch {
            throw LedgerError(.file, error.message)
        }
    }

    /// - Parameter time: How long after its end a certificate stays on them, in seconds.
    private func lists(
        of authorities: [EmbeddedCA],
        after present: PresentLists,
        keeping time: Int64
    ) throws(IdentityError) -> [UInt8] {
        var made: [RevocationList] = []
        for authority in authorities { made.append(try list(of: authority, after: present, keeping: time)) }
        // Whatever else is there stays: lists of roots whose keys are not here.
        let others = present.all.filter { other in !made.contains { $0.issuer == other.issuer } }
        return (made + others).flatMap(\.pem)
    }

    private func list(
        of authority: EmbeddedCA,
        after present: PresentLists,
        keeping time: Int64
    ) throws(IdentityError) -> RevocationList {
        let now = ledger.clock.seconds
        let issuer = authority.certificate.subjectKeyIdentifier ?? ""
        let revoked: [LedgerCertificate]
        let number: Int64
        let devices: [String: Bool]
        do throws(LedgerError) {
            revoked = try ledger.revoked(by: issuer, endingAfter: now - time)
            devices = try ledger.deviceRevocations()
            // By the time: after a ledger was lost, devices have a list with a number that it does not know.
            number = try ledger.nextListNumber(of: issuer, atLeast: now)
        } catch {
            throw IdentityError(.file, error.message)
        }
        let before = Dictionary(
            present.signed.filter { $0.root.subjectKeyIdentifier == issuer }.flatMap(\.list.entries).map {
                ($0.serial, $0.reason)
            },
            uniquingKeysWith: { first, _ in first }
        )
        let longest = revoked.map(\.notAfter).max() ?? now
        return try authority.revocationList(
            of: revoked.map { certificate in
                var entry = RevokedCertificate(serial: certificate.serial, revokedAt: certificate.changedAt ?? now)
                let isRevoked = certificate.device.flatMap { devices[$0] }
                entry.reason = Self.reason(deviceIsRevoked: isRevoked, before: before[certificate.serial])
                return entry
            },
            number: number,
            nextUpdate: max(now + Self.validity, longest + 24 * 60 * 60),
            at: now
        )
    }

    /// What a ledger that was put back is to make of a certificate: only where its device was trusted when it was
    /// listed, only the certificate was taken back. Whoever has its name by now does not change that.
    ///
    /// - Parameters:
    ///   - isRevoked: Whether its device is; nil: it has none, or that is not enrolled any more.
    ///   - before: What the list before this one says of it; nil: it is not on that.
    static func reason(deviceIsRevoked isRevoked: Bool?, before: RevocationReason??) -> RevocationReason? {
        if isRevoked == true { return .privilegeWithdrawn }
        if let before { return before }
        return isRevoked == false ? .superseded : nil
    }
}
