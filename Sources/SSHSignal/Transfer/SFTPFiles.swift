import Streams

/// Files over the server's `sftp` subsystem.
struct SFTPFiles: RemoteFiles {
    private let client: SSHClient
    private let session: LoopBound<SFTPSession>

    /// nil where the server has no SFTP.
    static func open(_ client: SSHClient) async throws(SSHError) -> SFTPFiles? {
        let loop = client.loop
        let session = try await client.perform {
            (connection, completion: @escaping (Result<LoopBound<SFTPSession>?, SSHError>) -> Void) in
            SFTPSession.open(on: connection) { completion($0.map { $0.map { LoopBound($0, on: loop) } }) }
        }
        return session.map { SFTPFiles(client: client, session: $0) }
    }

    private init(client: SSHClient, session: LoopBound<SFTPSession>) {
        self.client = client
        self.session = session
    }

    func close() async { session.loop.submit { session.withValue { $0.close() } } }

    // MARK: Names

    func status(of path: String) async throws(SSHError) -> RemoteFileStatus? {
        try await attributes(of: path).map {
            RemoteFileStatus(kind: $0.kind, permissions: ($0.mode ?? 0o644) & 0o7777)
        }
    }

    func children(of directory: String) async throws(SSHError) -> [RemoteChild] {
        let handle = try await handle("cannot read \(directory)") {
            SFTPPacket.openDirectory(id: $0, path: directory)
        }
        return try await closing(handle, of: directory) { () async throws(SSHError) -> [RemoteChild] in
            try await children(of: directory, handle)
        }
    }

    /// A directory is in memory as a whole, and the server says when it ends: with more bytes of names than this, it is
    /// given up. A million names of usual lengths are fewer.
    private static let longestListing = 64 << 20
    /// What each name costs beside its bytes.
    private static let nameCost = 40

    private func children(of directory: String, _ handle: [UInt8]) async throws(SSHError) -> [RemoteChild] {
        var found: [RemoteChild] = []
        var size = 0
        while true {
            switch try await ask({ SFTPPacket.readDirectory(id: $0, handle: handle) }) {
            // As OpenSSH has it: no more names are the end, too.
            case .names(_, let names) where names.isEmpty: return found
            case .names(_, let names):
                for name in names {
                    size += name.name.utf8.count + Self.nameCost
                    guard size <= Self.longestListing else {
                        let limit = "more than \(Self.longestListing >> 20) MiB"
                        throw SSHError(.transferFailed, "\(directory): the server lists \(limit) of names, and goes on")
                    }
                    if name.name == "." || name.name == ".." { continue }
                    guard RemoteChild.isName(name.name) else { throw .unfitting }
                    var attributes = name.attributes
                    if attributes.kind == .link {
                        guard let led = try await target("\(directory)/\(name.name)", attributes) else { continue }
                        attributes = led
                    }
                    let status = RemoteFileStatus(
                        kind: attributes.kind,
                        permissions: (attributes.mode ?? 0o644) & 0o7777
                    )
                    found.append(RemoteChild(name: name.name, status: status))
                }
            case .status(_, SFTPPacket.endOfFile, _): return found
            case .status(_, let code, let message):
                throw failure("cannot read \(directory)", code, message)
            default: throw .unfitting
            }
        }
    }

    /// What a link leads to. Where nobody may look there it counts as a file: whoever fetches it hears why, and the
    /// other names are of use.
    private func target(
        _ path: String,
        _ link: SFTPPacket.Attributes
    ) async throws(SSHError) -> SFTPPacket.Attributes? {
        do throws(SSHError) {
            return try await attributes(of: path)
        } catch {
            guard error.code == .transferFailed else { throw error }
            var unknown = link
            unknown.mode = nil
            return unknown
        }
    }

    func makeDirectory(_ path: String, permissions: UInt32) async throws(SSHError) {
        try await confirm("cannot make the directory \(path)") {
            SFTPPacket.makeDirectory(id: $0, path: path, permissions: permissions)
        }
    }

    // MARK: There

    func send(
        _ source: UploadSource,
        to path: String,
        part: String,
        permissions: TransferPermissions,
        progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        let reader = LoopBound(try source.open(), on: session.loop)
        switch permissions {
        case .exactly(let permissions):
            let handle = try await create(part, permissions: 0o600, exclusive: false)
            try await complete(reader, part, handle, as: path, permissions: permissions, progress)
        case .ifNew(let permissions):
            switch try await place(path) {
            case .new:
                let handle = try await create(part, permissions: permissions, exclusive: true)
                try await complete(reader, part, handle, as: path, permissions: nil, progress)
            case .replace(let target, let found):
                // The part's name says where it is, and it must be where the target is.
                let part = target == path ? part : PartName.beside(target)
                if let handle = try await createLike(found, part) {
                    try await complete(
                        reader,
                        part,
                        handle,
                        as: target,
                        permissions: (found.mode ?? 0) & 0o777,
                        progress
                    )
                } else {
                    try await write(reader, into: target, permissions, isRegular: true, progress)
                }
            case .inPlace(let isRegular):
                try await write(reader, into: path, permissions, isRegular: isRegular, progress)
            }
        }
    }

    private enum Place {
        case new
        /// What is there may be replaced, if a new file has the same owner.
        case replace(String, SFTPPacket.Attributes)
        case inPlace(isRegular: Bool)
    }

    private func place(_ path: String) async throws(SSHError) -> Place {
        guard var found = try await attributes(of: path, followsLinks: false) else { return .new }
        var target = path
        if found.kind == .link {
            guard let led = try await attributes(of: path) else { return .inPlace(isRegular: true) }
            found = led
            guard case .names(_, let names) = try await ask({ SFTPPacket.realPath(id: $0, path: path) }),
                let name = names.first?.name
            else { return .inPlace(isRegular: led.kind == .file) }
            target = name
        }
        guard found.kind != .directory else { throw SSHError(.transferFailed, "\(path) is a directory") }
        guard found.kind == .file else { return .inPlace(isRegular: false) }
        // What its owner has protected from writing stays protected; and a special bit is not for new content.
        guard let mode = found.mode, mode & 0o200 != 0, mode & 0o7000 == 0, found.owner != nil else {
            return .inPlace(isRegular: true)
        }
        return .replace(target, found)
    }

    /// - Returns: nil where it would have another owner, or cannot be made: then the file itself is written.
    private func createLike(_ found: SFTPPacket.Attributes, _ part: String) async throws(SSHError) -> [UInt8]? {
        let answer = try await ask { SFTPPacket.open(id: $0, path: part, permissions: 0o600, exclusive: true) }
        guard case .handle(_, let handle) = answer else { return nil }
        if case .attributes(_, let made) = try await ask({ SFTPPacket.status(id: $0, handle: handle) }),
            made.owner == found.owner
        {
            return handle
        }
        await abandon(part, handle)
        return nil
    }

    private func create(_ path: String, permissions: UInt32, exclusive: Bool) async throws(SSHError) -> [UInt8] {
        try await handle("cannot create \(path)") {
            SFTPPacket.open(id: $0, path: path, permissions: permissions, exclusive: exclusive)
        }
    }

    /// Writes a part, and puts it in place. Takes the part away when that does not succeed.
    private func complete(
        _ reader: LoopBound<UploadReader>,
        _ part: String,
        _ handle: [UInt8],
        as path: String,
        permissions: UInt32?,
        _ progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        do throws(SSHError) {
            let size = try await write(reader, part, handle, progress)
            if let permissions {
                try await confirm("cannot set the permissions of \(part)") {
                    SFTPPacket.setPermissions(id: $0, handle: handle, permissions: permissions)
                }
            }
            try await check(handle, of: part, has: size)
            try await close(handle, of: part)
            try await rename(part, path)
        } catch {
            await abandon(part, handle)
            throw error
        }
    }

    private func write(
        _ reader: LoopBound<UploadReader>,
        into path: String,
        _ permissions: UInt32,
        isRegular: Bool,
        _ progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        let handle = try await handle("cannot write \(path)") {
            SFTPPacket.open(id: $0, path: path, permissions: permissions, exclusive: false)
        }
        try await closing(handle, of: path) { () async throws(SSHError) -> Void in
            let size = try await write(reader, path, handle, progress)
            if isRegular { try await check(handle, of: path, has: size) }
        }
    }

    /// - Returns: How many bytes were written.
    private func write(
        _ reader: LoopBound<UploadReader>,
        _ path: String,
        _ handle: [UInt8],
        _ progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) -> UInt64 {
        try await exchange(isCancellable: true) {
            (session: SFTPSession, completion: @escaping (Result<UInt64, SSHError>) -> Void) in
            reader.withValue { reader in
                guard reader.size > 0 else {
                    completion(.success(0))
                    return nil
                }
                return SFTPWriting(
                    reader,
                    SFTPWrites(to: path, handle: handle, size: reader.size),
                    buffers: session.buffers,
                    progress: progress
                ) { completion($0.map { reader.size }) }
            }
        }
    }

    private func check(_ handle: [UInt8], of path: String, has size: UInt64) async throws(SSHError) {
        switch try await ask({ SFTPPacket.status(id: $0, handle: handle) }) {
        case .attributes(_, let found):
            guard let found = found.size, found == size else {
                let bytes = found.size.map { "\($0)" } ?? "an unknown number of"
                throw SSHError(.transferFailed, "\(path) has \(bytes) bytes after the upload, not \(size)")
            }
        case .status(_, let code, let message): throw failure("cannot check \(path)", code, message)
        default: throw .unfitting
        }
    }

    private func rename(_ part: String, _ path: String) async throws(SSHError) {
        guard await canReplace() else {
            // SFTP's own rename refuses to replace; `mv` of a directory's name would move into it.
            let (part, path) = (ShellFiles.quote(part), ShellFiles.quote(path))
            let script = "[ ! -d \(path) ] && mv -f \(part) \(path)"
            return try ShellFiles.check(try await ShellFiles.run(script, on: client), "renaming \(part) to \(path)")
        }
        try await confirm("cannot rename \(part) to \(path)") { SFTPPacket.rename(id: $0, from: part, to: path) }
    }

    private func canReplace() async -> Bool {
        (try? await session.loop.execute { session.withValue(\.canReplace) }) ?? false
    }

    private func abandon(_ part: String, _ handle: [UInt8]) async {
        _ = try? await ask { SFTPPacket.close(id: $0, handle: handle) }
        _ = try? await ask { SFTPPacket.remove(id: $0, path: part) }
    }

    // MARK: Here

    func fetch(
        _ path: String,
        to target: String,
        progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        guard let found = try await attributes(of: path) else {
            throw SSHError(.transferFailed, "cannot open \(path): no such file or directory")
        }
        try found.kind.requireFile(path)
        let handle = try await handle("cannot open \(path)") { SFTPPacket.openForReading(id: $0, path: path) }
        let permissions = (found.mode ?? 0o644) & 0o777
        let size = found.size ?? 0
        try await closing(handle, of: path) { () async throws(SSHError) -> Void in
            let file = LoopBound(try DownloadFile(target: target, permissions: permissions), on: session.loop)
            do throws(SSHError) {
                try await read(path, handle, size, to: file, progress)
            } catch {
                // Also where the exchange has not begun.
                _ = try? await session.loop.execute { file.withValue { $0.discard() } }
                throw error
            }
        }
    }

    private func read(
        _ path: String,
        _ handle: [UInt8],
        _ size: UInt64,
        to file: LoopBound<DownloadFile>,
        _ progress: (@Sendable (UInt64, UInt64) -> Void)?
    ) async throws(SSHError) {
        try await exchange(isCancellable: true) {
            (_, completion: @escaping (Result<Void, SSHError>) -> Void) in
            file.withValue { file in
                SFTPReading(SFTPReads(of: path, handle: handle, size: size), to: file, progress: progress) { result in
                    let outcome = result.flatMap { Result { () throws(SSHError) in try file.complete() } }
                    // Before anybody hears of it: the process may end then.
                    file.discard()
                    completion(outcome)
                }
            }
        }
    }

    // MARK: Questions

    private func attributes(
        of path: String,
        followsLinks: Bool = true
    ) async throws(SSHError) -> SFTPPacket.Attributes? {
        switch try await ask({ SFTPPacket.status(id: $0, path: path, followsLinks: followsLinks) }) {
        case .attributes(_, let found): return found
        case .status(_, SFTPPacket.noSuchFile, _): return nil
        case .status(_, let code, let message): throw failure("cannot look at \(path)", code, message)
        default: throw .unfitting
        }
    }

    private func handle(
        _ what: String,
        _ request: @escaping @Sendable (UInt32) -> [UInt8]
    ) async throws(SSHError) -> [UInt8] {
        switch try await ask(request) {
        case .handle(_, let handle): return handle
        case .status(_, let code, let message): throw failure(what, code, message)
        default: throw .unfitting
        }
    }

    private func confirm(
        _ what: String,
        _ request: @escaping @Sendable (UInt32) -> [UInt8]
    ) async throws(SSHError) {
        guard case .status(_, let code, let message) = try await ask(request) else { throw .unfitting }
        guard code == 0 else { throw failure(what, code, message) }
    }

    private func close(_ handle: [UInt8], of path: String) async throws(SSHError) {
        try await confirm("closing \(path) failed") { SFTPPacket.close(id: $0, handle: handle) }
    }

    /// Does something with a handle, and closes it, whatever comes of it.
    private func closing<Value: Sendable>(
        _ handle: [UInt8],
        of path: String,
        _ body: () async throws(SSHError) -> Value
    ) async throws(SSHError) -> Value {
        let value: Value
        do throws(SSHError) {
            value = try await body()
        } catch {
            _ = try? await ask { SFTPPacket.close(id: $0, handle: handle) }
            throw error
        }
        try await close(handle, of: path)
        return value
    }

    private func failure(_ what: String, _ code: UInt32, _ message: String) -> SSHError {
        SSHError(.transferFailed, "\(what): \(SFTPPacket.describe(code, message))")
    }

    private func ask(
        _ request: @escaping @Sendable (UInt32) -> [UInt8]
    ) async throws(SSHError) -> SFTPPacket.Answer {
        try await exchange(isCancellable: false) { (_, completion) in SFTPQuestion(request, completion: completion) }
    }

    /// - Parameters:
    ///   - isCancellable: Whether the end of the task is that of the exchange; what puts things in order goes on.
    ///   - body: Makes the exchange on the loop; nil: there is nothing to ask, and the completion was called.
    private func exchange<Success: Sendable>(
        isCancellable: Bool,
        _ body: @escaping @Sendable (SFTPSession, @escaping (Result<Success, SSHError>) -> Void) -> (any SFTPExchange)?
    ) async throws(SSHError) -> Success {
        let session = session
        let wasCancelled = Lock(false)
        let result: Result<Success, SSHError> = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                session.loop.submit {
                    // The cancellation may have come before there was an exchange that it could end.
                    guard !isCancellable || !wasCancelled.withLock({ $0 }) else {
                        return continuation.resume(returning: .failure(.interrupted))
                    }
                    session.withValue { value in
                        if let exchange = body(value, { continuation.resume(returning: $0) }) { value.run(exchange) }
                    }
                }
            }
        } onCancel: {
            if isCancellable {
                wasCancelled.withLock { $0 = true }
                session.loop.submit { session.withValue { $0.cancel() } }
            }
        }
        return try result.get()
    }
}
