/// What one check of `doctor` came to.
package struct Finding: Sendable, Encodable {
    package enum Verdict: String, Sendable, Encodable {
        case good = "ok"
        /// Works, but not as well as it could, or not for long.
        case warning
        case failure = "failed"
        /// Could not be checked because of another failure.
        case skipped
    }

    /// `host key`, `login`: what was checked.
    package let check: String
    package let verdict: Verdict
    /// What was found.
    package let detail: String
    /// What to do about it.
    package let fix: String?
    /// What kind of failure it is; nil for what is none.
    package let reason: HostError.Reason?

    static func good(_ check: String, _ detail: String) -> Finding {
        Finding(check: check, verdict: .good, detail: detail, fix: nil, reason: nil)
    }

    static func warning(_ check: String, _ detail: String, fix: String?) -> Finding {
        Finding(check: check, verdict: .warning, detail: detail, fix: fix, reason: nil)
    }

    static func failure(
        _ check: String,
        _ detail: String,
        fix: String?,
        _ reason: HostError.Reason = .failed
    ) -> Finding {
        Finding(check: check, verdict: .failure, detail: detail, fix: fix, reason: reason)
    }

    static func skipped(_ check: String, because other: String) -> Finding {
        Finding(check: check, verdict: .skipped, detail: "needs \(other)", fix: nil, reason: nil)
    }

    private enum Key: String, CodingKey {
        case check, verdict, detail
        /// The key is what scripts have known it by from the start.
        case fix = "mend"
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(check, forKey: .check)
        try container.encode(verdict, forKey: .verdict)
        try container.encode(detail, forKey: .detail)
        try container.encodeIfPresent(fix, forKey: .fix)
    }
}
