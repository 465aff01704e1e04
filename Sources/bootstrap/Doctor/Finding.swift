import ArgumentParser

/// What one check of `doctor` came to.
struct Finding: Sendable, Encodable {
    enum Verdict: String, Sendable, Encodable {
        case good = "ok"
        /// Works, but not as well as it could, or not for long.
        case warning
        case failure = "failed"
        /// Could not be checked because of another failure.
        case skipped
    }

    /// `host key`, `login`: what was checked.
    let check: String
    let verdict: Verdict
    /// What was found.
    let detail: String
    /// What to do about it.
    let mend: String?
    /// How the command ends because of it.
    let exitCode: ExitCode

    static func good(_ check: String, _ detail: String) -> Finding {
        Finding(check: check, verdict: .good, detail: detail, mend: nil, exitCode: .success)
    }

    static func warning(_ check: String, _ detail: String, mend: String?) -> Finding {
        Finding(check: check, verdict: .warning, detail: detail, mend: mend, exitCode: .success)
    }

    static func failure(_ check: String, _ detail: String, mend: String?, _ code: ExitCode = .failed) -> Finding {
        Finding(check: check, verdict: .failure, detail: detail, mend: mend, exitCode: code)
    }

    static func skipped(_ check: String, because other: String) -> Finding {
        Finding(check: check, verdict: .skipped, detail: "needs \(other)", mend: nil, exitCode: .success)
    }

    private enum Key: String, CodingKey {
        case check, verdict, detail, mend
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Key.self)
        try container.encode(check, forKey: .check)
        try container.encode(verdict, forKey: .verdict)
        try container.encode(detail, forKey: .detail)
        try container.encodeIfPresent(mend, forKey: .mend)
    }
}
