/// Whether what carries a stream is in doubt: from when its connection did not answer, until something comes over it
/// after all, or another carrier takes its place.
struct CarrierDoubt: Equatable {
    /// How much had come when it began; nil: there is none.
    private var heard: UInt64?

    /// - Parameter heard: How often anything has come over the stream's carriers so far.
    mutating func begin(heard: UInt64) { self.heard = heard }

    mutating func end() { heard = nil }

    func holds(heard: UInt64) -> Bool { self.heard == heard }
}
