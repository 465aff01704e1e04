import MeshIdentity
import Platform
import Streams

/// A directory in etcd: the manifest under one key, and each piece of the content under its hash.
///
/// ```
/// /mesh/example.org/manifest            the signed head
/// /mesh/example.org/part/2c26b46b…      a piece
/// ```
///
/// A change writes the pieces that are new, and then, in one transaction that holds only if nobody else has written the
/// manifest meanwhile, the manifest. Whoever reads gets all keys as of one moment; whoever watches gets what changed.
package struct EtcdDirectory: Sendable {
    package let settings: EtcdSettings
    private let client: EtcdClient

    private static let shortestPause = Duration.milliseconds(100)
    private static let longestPause = Duration.seconds(5)
    /// Messages of a watch that wait for whoever is told.
    private static let mostWaiting = 16

    package init(_ settings: EtcdSettings) {
        self.settings = settings
        client = EtcdClient(settings)
    }

    package func read() async throws(DirectoryError) -> SignedDirectory? { try await snapshot().document() }

    package func write(
        _ document: SignedDirectory,
        replacing previous: DirectoryStore.Previous
    ) async throws(DirectoryError) {
        let present = try await snapshot()
        guard previous.allows(present.manifest) else {
            throw DirectoryStore.conflict(try? present.document()?.revision)
        }
        var batch = EtcdTxnRequest()
        var bytes = 0
        var seen: Set<String> = []
        for (hash, piece) in document.pieces where present.pieces[hash] == nil && seen.insert(hash).inserted {
            if bytes + piece.count > EtcdTxnRequest.mostBytes || batch.puts.count == EtcdTxnRequest.mostOperations {
                _ = try await client.txn(batch)
                (batch, bytes) = (EtcdTxnRequest(), 0)
            }
            batch.puts.append((present.key(ofPart: hash), piece))
            bytes += piece.count
        }
        // The last pieces go with the manifest, where there is room: nearly always that is all.
        let room = EtcdTxnRequest.mostOperations - batch.puts.count - 1
        if room < 0 || bytes + document.manifest.bytes.count > EtcdTxnRequest.mostBytes {
            _ = try await client.txn(batch)
            batch = EtcdTxnRequest()
        }
        batch.condition = (present.manifestKey, present.manifestRevision)
        batch.puts.append((present.manifestKey, document.manifest.bytes))
        // What the manifest before needed, too, goes with it only: who reads has one moment or the other.
        let needed = Set(document.manifest.parts.map(\.hash))
        batch.deletes = present.pieces.keys.filter { !needed.contains($0) }.sorted().prefix(max(0, room))
            .map(present.key(ofPart:))
        guard try await client.txn(batch).succeeded else { throw DirectoryStore.conflict(try await read()?.revision) }
    }

    /// Where everything is read, and from what revision on.
    private func snapshot() async throws(DirectoryError) -> EtcdSnapshot {
        let prefix = Array(settings.prefix.utf8)
        return try EtcdSnapshot(prefix: prefix, try await client.range(EtcdRangeRequest(prefix: prefix)))
    }

    // MARK: Following

    func follow(_ tell: @Sendable (DirectoryStore.Event) async -> Void) async {
        var snapshot: EtcdSnapshot?
        var pause = Self.shortestPause
        while !Task.isCancelled {
            let began = ContinuousClock.now
            do throws(DirectoryError) {
                if snapshot == nil {
                    let read = try await self.snapshot()
                    snapshot = read
                    await Self.tell(read, tell)
                }
                guard let present = snapshot else { continue }
                let last = try await watch(present) { now in
                    // What was told is not told again, wherever the watch goes on.
                    let isNews = now.manifest != snapshot?.manifest
                    snapshot = now
                    guard isNews else { return }
                    pause = Self.shortestPause
                    await Self.tell(now, tell)
                }
                snapshot = last
            } catch {
                guard !Task.isCancelled else { return }
                // What goes wrong with what was read goes wrong again: everything is read anew.
                if error.code != .unreachable { snapshot = nil }
                await tell(.failed(error))
            }
            // Many nodes lose the same member at once; and one that cancels each watch is asked less and less.
            if ContinuousClock.now - began > Self.longestPause { pause = Self.shortestPause }
            try? await Task.sleep(for: pause * Double.random(in: 0.5...1.5))
            pause = min(pause * 2, Self.longestPause)
        }
    }

    private static func tell(_ snapshot: EtcdSnapshot, _ tell: (DirectoryStore.Event) async -> Void) async {
        do throws(DirectoryError) {
            let event: DirectoryStore.Event = try snapshot.document().map { .document($0) } ?? .missing
            await tell(event)
        } catch {
            await tell(.failed(error))
        }
    }

    /// Follows the changes after `snapshot`.
    ///
    /// - Returns: nil: everything is to be read again, because the revisions in between are not known any more
    ///   (compaction), or are others (the store was made anew).
    /// - Throws: ``DirectoryError`` when the watch has ended; what `changed` was told of holds.
    private func watch(
        _ start: EtcdSnapshot,
        _ changed: (EtcdSnapshot) async -> Void
    ) async throws(DirectoryError) -> EtcdSnapshot? {
        // Whoever is told may be slow, and a member may say much: what does not fit is read anew, with everything else.
        let (responses, input) = AsyncStream<EtcdWatchResponse>.makeStream(
            bufferingPolicy: .bufferingOldest(Self.mostWaiting)
        )
        let request = EtcdWatchRequest(prefix: start.prefix, startRevision: start.revision + 1)
        let client = client
        let outcome = Lock<DirectoryError?>(nil)
        // The first reason counts.
        let end: @Sendable (DirectoryError) -> Void = { error in
            outcome.withLock { $0 = $0 ?? error }
            input.finish()
        }
        let watching = Task {
            do throws(DirectoryError) {
                try await client.watch(request) { message in
                    switch message {
                    case .success(let response):
                        guard case .dropped = input.yield(response) else { return }
                        end(DirectoryError(.limit, "etcd says more than can be followed: everything is read anew"))
                    case .failure(let error): end(error)
                    }
                }
            } catch {
                end(error)
            }
            input.finish()
        }
        return try await Self.awaiting(watching) { () async throws(DirectoryError) -> EtcdSnapshot? in
            var snapshot = start
            for await response in responses {
                // A revision that is yet to come is waited for without a word.
                let isOther = response.header.cluster != start.cluster || response.header.revision < snapshot.revision
                if response.isCancelled || response.compactRevision > 0 || isOther { return nil }
                try snapshot.apply(response)
                await changed(snapshot)
            }
            throw outcome.withLock { $0 } ?? DirectoryError(.unreachable, "etcd ended the watch")
        }
    }

    /// Ends `task` with `body`, however that ends, and with the task that waits for it.
    private static func awaiting<Outcome: Sendable>(
        _ task: Task<Void, Never>,
        _ body: () async throws(DirectoryError) -> Outcome
    ) async throws(DirectoryError) -> Outcome {
        let result = await withTaskCancellationHandler {
            do throws(DirectoryError) {
                return Result<Outcome, DirectoryError>.success(try await body())
            } catch {
                return .failure(error)
            }
        } onCancel: {
            task.cancel()
        }
        task.cancel()
        await task.value
        return try result.get()
    }
}

/// All keys of a directory in etcd as of one revision.
private struct EtcdSnapshot: Sendable {
    let prefix: [UInt8]
    let cluster: UInt64
    /// Of the store.
    private(set) var revision: Int64
    private(set) var manifest: [UInt8]?
    /// When that was written; 0: it is not there.
    private(set) var manifestRevision: Int64 = 0
    /// By their hashes; each was checked.
    private(set) var pieces: [String: [UInt8]] = [:]
    private var heldBytes = 0

    var manifestKey: [UInt8] { prefix + Array("manifest".utf8) }

    func key(ofPart hash: String) -> [UInt8] { prefix + Array("part/\(hash)".utf8) }

    init(prefix: [UInt8], _ response: EtcdRangeResponse) throws(DirectoryError) {
        (self.prefix, cluster, revision) = (prefix, response.header.cluster, response.header.revision)
        for pair in response.pairs { try put(pair) }
    }

    mutating func apply(_ response: EtcdWatchResponse) throws(DirectoryError) {
        for event in response.events {
            guard let pair = event.pair else { continue }
            if event.isDeletion { delete(pair.key) } else { try put(pair) }
            revision = max(revision, pair.modRevision)
        }
    }

    private func hash(of key: [UInt8]) -> String? {
        let start = prefix + Array("part/".utf8)
        guard key.starts(with: start), key.count == start.count + 64 else { return nil }
        return String(decoding: key.dropFirst(start.count), as: UTF8.self)
    }

    private mutating func put(_ pair: EtcdKeyValue) throws(DirectoryError) {
        if pair.key == manifestKey {
            (manifest, manifestRevision) = (pair.value, pair.modRevision)
        } else if let hash = hash(of: pair.key) {
            // What does not have its hash is nobody's part.
            guard hexadecimal(Digest.sha256(pair.value)) == hash else { return }
            guard pieces[hash] == nil else { return }
            heldBytes += pair.value.count
            guard heldBytes <= 2 * DirectoryManifest.maximumContent, pieces.count < 4 * DirectoryManifest.maximumParts
            else { throw DirectoryManifest.tooLarge }
            pieces[hash] = pair.value
        }
    }

    private mutating func delete(_ key: [UInt8]) {
        if key == manifestKey {
            (manifest, manifestRevision) = (nil, 0)
        } else if let hash = hash(of: key), let piece = pieces.removeValue(forKey: hash) {
            heldBytes -= piece.count
        }
    }

    /// nil: there is no manifest.
    func document() throws(DirectoryError) -> SignedDirectory? {
        guard let manifest else { return nil }
        let head = try DirectoryManifest(parsing: manifest)
        guard head.bytes.count == manifest.count else {
            throw DirectoryError(.damaged, "something follows its signature")
        }
        return try SignedDirectory(head, pieces: pieces)
    }
}
