import Foundation

/// Deterministic mutations of known inputs. A run repeats exactly with the seed that it prints.
///
/// `BOOTSTRAP_FUZZ_SEED` sets the seed; `BOOTSTRAP_FUZZ_SECONDS` goes on for so long instead of a fixed number of
/// inputs.
public struct Fuzzer: Sendable {
    public let seed: UInt64
    private let deadline: ContinuousClock.Instant?
    private var state: UInt64

    /// - Parameter name: What is fuzzed, for the line with the seed.
    public init(_ name: String) {
        let environment = ProcessInfo.processInfo.environment
        seed = environment["BOOTSTRAP_FUZZ_SEED"].flatMap { UInt64($0) } ?? 20_261_122
        deadline = environment["BOOTSTRAP_FUZZ_SECONDS"].flatMap { Int($0) }.map { .now + .seconds($0) }
        state = seed
        print("fuzzing \(name): BOOTSTRAP_FUZZ_SEED=\(seed)")
    }

    /// Whether to go on after `done` inputs where `enough` are asked for.
    public func goesOn(_ done: Int, of enough: Int) -> Bool {
        guard let deadline else { return done < enough }
        return ContinuousClock.now < deadline
    }

    /// SplitMix64.
    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// `0..<limit`; 0 where the limit is.
    public mutating func below(_ limit: Int) -> Int { limit > 0 ? Int(next() % UInt64(limit)) : 0 }

    public mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }

    /// One of `corpus`, with one to four changes; `dictionary` has pieces that mean something to the parser.
    public mutating func mutate(_ corpus: [[UInt8]], dictionary: [[UInt8]] = []) -> [UInt8] {
        var bytes = pick(corpus)
        for _ in 0...below(4) {
            let position = below(bytes.count + 1)
            let length = min(bytes.count - position, 1 + below(16))
            switch below(8) {
            case 0 where position < bytes.count: bytes[position] ^= 1 << UInt8(below(8))
            case 1 where position < bytes.count: bytes[position] = UInt8(truncatingIfNeeded: next())
            case 2: bytes.removeSubrange(position..<position + length)
            case 3: bytes.insert(contentsOf: bytes[position..<position + length], at: below(bytes.count + 1))
            case 4: bytes.insert(contentsOf: (0..<length).map { _ in UInt8(truncatingIfNeeded: next()) }, at: position)
            case 5: bytes.removeSubrange(position...)
            case 6 where !dictionary.isEmpty: bytes.insert(contentsOf: pick(dictionary), at: position)
            default:
                // A crossing with another input.
                let other = pick(corpus)
                bytes = Array(bytes[..<position] + other[min(position, other.count)...])
            }
        }
        return bytes
    }
}
