package import SSHSignal

/// Files that go to a machine before its command, and files that come back after it.
package struct FileTransfers: Sendable {
    private let put: [FileTransfer]
    private let get: [FileTransfer]

    /// - Parameters:
    ///   - put: Copied there before.
    ///   - get: Copied here afterwards.
    package init(put: [FileTransfer] = [], get: [FileTransfer] = []) {
        self.put = put
        self.get = get
    }

    package var isEmpty: Bool { put.isEmpty && get.isEmpty }

    /// What they go over; nil: there are none.
    package func files(of client: SSHClient) async throws(SSHError) -> (any RemoteFiles)? {
        guard !isEmpty else { return nil }
        return try await client.files()
    }

    /// - Parameter name: The machine's, for `{name}` in paths.
    package func send(for name: String, over files: any RemoteFiles) async throws(SSHError) {
        for transfer in put {
            let local = NameTemplate.expand(transfer.source, for: name)
            try await files.send(
                .file(path: local),
                to: RemotePath.withoutHome(NameTemplate.expand(transfer.target, for: name)),
                permissions: .ifNew(FileMode.of(local))
            )
        }
    }

    package func fetch(for name: String, over files: any RemoteFiles) async throws(SSHError) {
        for transfer in get {
            try await files.fetch(
                RemotePath.withoutHome(NameTemplate.expand(transfer.source, for: name)),
                to: NameTemplate.expand(transfer.target, for: name),
                progress: nil
            )
        }
    }
}

/// `FROM:TO`, where one side is on another machine; `{name}` in either stands for the machine's name.
package struct FileTransfer: Hashable, Sendable {
    package let source: String
    package let target: String

    /// nil without a colon between two paths.
    package init?(parsing text: String) {
        guard let colon = text.firstIndex(of: ":") else { return nil }
        source = String(text[..<colon])
        target = String(text[text.index(after: colon)...])
        guard !source.isEmpty, !target.isEmpty else { return nil }
    }
}
