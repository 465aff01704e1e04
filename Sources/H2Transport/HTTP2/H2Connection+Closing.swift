package import MeshIdentity
package import Streams

// Going away: this side, the peer, the layer below. How far it has come is for `life` to say.
extension H2Connection {
    func receivedGoAway() {
        guard life.refusedMoreStreams() else { return }
        delegate?.connectionIsDraining(self)
        if streams.isEmpty { becameIdle() }
    }

    /// Takes no more streams and closes when those that are open have ended, or after `deadline` at the latest. In two
    /// steps, so that no request on its way is lost (RFC 9113 §6.8): first a GOAWAY that refuses nothing, and the final
    /// one after a round trip.
    ///
    /// Called again, it can only shorten the time.
    ///
    /// - Parameters:
    ///   - deadline: nil: streams may go on for as long as they last.
    ///   - completion: Called once on the loop, when the connection is gone.
    package func drain(deadline: Duration?, completion: (() -> Void)? = nil) {
        guard !isClosed else {
            if let completion { loop.later(completion) }
            return
        }
        if let completion { drainDeadline.add(completion) }
        if let deadline { limitDraining(to: deadline) }
        guard life.announce() else { return }
        if isServer {
            // PING follows once this was sent: nghttp2 has it overtake what waits, and its answer would then say
            // nothing of what the peer knows.
            isAnnouncing = true
            session?.announceGoAway()
        } else {
            sendFinalGoAway()
        }
        markDirty()
    }

    private func limitDraining(to deadline: Duration) {
        guard drainDeadline.shorten(to: loop.now &+ deadline.nanoseconds) else { return }
        let timer =
            timers.drain
            ?? LoopTimer(on: loop) { [weak self] in
                self?.end(StreamError(.draining, "streams were still open when the time to drain was over"))
            }
        timers.drain = timer
        timer.schedule(after: deadline)
    }

    func sendFinalGoAway() {
        guard !isClosed else { return }
        life.stopTakingStreams()
        session?.goAway()
        markDirty()
        if streams.isEmpty { becameIdle() }
    }

    /// Takes no new streams from now on, lets those that are open end, and closes: ``drain(deadline:completion:)`` with
    /// the time that ``H2Configuration/Age/drainTimeout`` gives. The delegate is told that the connection is draining.
    package func retire() {
        guard !isClosed, age.retire() else { return }
        timers.age?.cancel()
        drain(deadline: configuration.age.drainTimeout)
        if (!isServer || isReversed) && !isClosed { delegate?.connectionIsDraining(self) }
    }

    /// Ends the connection: at once where there are streams, which fail; with a GOAWAY where there are none.
    package func close() {
        guard !isClosed else { return }
        guard streams.isEmpty else {
            return end(StreamError(.closed, "the connection to \(peerDescription) was closed by this side"))
        }
        life.close()
        session?.goAway()
        markDirty()
    }

    /// Cuts the connection at once: the peer sees an abort, the streams fail with `reason`.
    package func abort(_ reason: StreamError) { end(reason) }

    /// Cuts the connection with all its streams when `trust` has the certificate as revoked that its peer showed, or
    /// does not know its trust domain: what a peer once proved may be taken back, and then nothing of its connection is
    /// worth keeping.
    ///
    /// - Returns: whether it has.
    @discardableResult
    package func end(ifRevokedIn trust: TrustBundleSet) -> Bool {
        guard let peer, let peerCertificate, let objection = trust.objection(to: peerCertificate, of: peer) else {
            return false
        }
        abort(StreamError(.authentication, objection))
        return true
    }

    /// The last stream has ended.
    func becameIdle() {
        if life.becameIdle() { markDirty() }
    }

    /// Everything has been sent, GOAWAY included.
    func finishClosing() {
        guard session?.wantsWrite == false else { return }
        end(life.reasonWhenFlushed(hasStreams: !streams.isEmpty, peer: peerDescription), abortsLower: false)
    }

    /// Without GOAWAY or END_STREAM, the end of the transport is a truncation for every stream that is open.
    func lowerEnded() {
        input.endBelow()
        let wasClean = streams.values.allSatisfy { $0.isOver }
        end(wasClean ? nil : StreamError(.truncated, "\(peerDescription) closed the connection with streams open"))
    }

    func lowerFailed() {
        let error = lower.failure ?? StreamError(.truncated, "the connection to \(peerDescription) failed")
        end(life.reasonWhenLost(hasStreams: !streams.isEmpty, error))
    }
}
