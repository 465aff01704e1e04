/// Joins a stream that has direct paths both ways with one that is only a part of what has it: one object in the place
/// of a ``Relay`` and its pumps, which nobody waits for.
///
/// The end of one direction waits for that of the other. Then both streams are closed; at a failure both are reset.
/// Belongs to its streams, and lets go of both at the end.
package final class Splice: Pump {
    /// Nil at the end.
    private var near: ByteStream?
    private var far: ByteStream?
    /// One direction has ended.
    private var isHalfDone = false

    /// - Parameters:
    ///   - near: Reads and writes without a path of its own; it tells `far` by ``ByteStream/sourceBecameReadable()``
    ///     and ``ByteStream/sinkBecameWritable()``.
    ///   - far: Has both paths.
    package init(_ near: ByteStream, _ far: ByteStream) {
        self.near = near
        self.far = far
        super.init()
    }

    /// Returns false where `far` has no such paths, or has them no more: nothing has happened then.
    package func start() -> Bool {
        guard let near, let far, far.pull(from: near, for: self) else {
            isDone = true
            return false
        }
        if far.push(to: near, for: self) { return true }
        let failure = far.failure ?? .closed(far)
        far.loop.later { self.failed(failure) }
        return true
    }

    /// Resets what is at the far end; the near one has left.
    package func cut(_ reason: StreamError) {
        guard let far, !isDone else { return }
        leave()
        far.reset(reason)
    }

    package override func sourceEnded() {
        guard !isDone else { return }
        if isHalfDone { end() } else { isHalfDone = true }
    }

    package override func failed(_ error: StreamError) {
        guard !isDone, let near, let far else { return }
        // Nobody reads what this direction would still bring: that is its end.
        if error.code == .closed, isHalfDone { return end() }
        leave()
        near.reset(error)
        far.reset(error)
    }

    private func end() {
        guard let near, let far else { return }
        leave()
        near.close()
        far.close()
    }

    private func leave() {
        isDone = true
        near = nil
        far = nil
    }
}
