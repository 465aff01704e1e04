import MeshDirectory
import Platform
import Streams

/// What holds and is to be saved: of several that come while one is written, the last. Whoever takes tells, one task
/// writes.
final class UnsavedDirectory: Sendable {
    private struct State {
        var document: SignedDirectory?
        /// The newest that was put.
        var last: DirectoryManifest?
        /// Nobody takes any more.
        var isClosed = false
    }

    private let state = Lock(State())
    private let (news, input) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))

    /// One that is earlier than another that was put is none: what is saved never goes backwards.
    ///
    /// - Returns: false: nobody takes it any more.
    func put(_ document: SignedDirectory) -> Bool {
        let manifest = document.manifest
        let isOpen = state.withLock { state in
            if let last = state.last, last.domain == manifest.domain, last.revision > manifest.revision { return true }
            guard !state.isClosed else { return false }
            (state.document, state.last) = (document, manifest)
            return true
        }
        input.yield()
        return isOpen
    }

    private func take() -> SignedDirectory? {
        state.withLock { state in
            defer { state.document = nil }
            return state.document
        }
    }

    /// What has not been taken, for whoever takes last.
    func close() -> SignedDirectory? {
        state.withLock { state in
            state.isClosed = true
            defer { state.document = nil }
            return state.document
        }
    }

    /// Nothing more is waited for.
    func end() { input.finish() }

    /// Waits for one. nil: it has ended, or the task is to end; something may have been put since.
    func next() async -> SignedDirectory? {
        var changes = news.makeAsyncIterator()
        while true {
            if let document = take() { return document }
            guard await changes.next() != nil else { return nil }
        }
    }
}
