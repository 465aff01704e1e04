/// The value of `Ciphers`, `MACs`, `KexAlgorithms`, `HostKeyAlgorithms` or `PubkeyAcceptedAlgorithms` of
/// `ssh_config(5)`: names and patterns that take the place of the defaults, or, behind `+`, `-` or `^`, are added to
/// them, left out of them, or put before them.
package struct AlgorithmList: Hashable, Sendable {
    private enum Change: Character {
        case add = "+"
        case remove = "-"
        case prepend = "^"
    }

    private let change: Change?
    private let patterns: [String]

    /// nil for a list that `ssh` would not take: without names, or with a negated one.
    package init?(_ text: String) {
        change = text.first.flatMap(Change.init)
        let names = change == nil ? Substring(text) : text.dropFirst()
        patterns = names.split(separator: ",").map(String.init)
        guard !patterns.isEmpty, !patterns.contains(where: { $0.hasPrefix("!") }) else { return nil }
    }

    /// What is left of `defaults`, the algorithms that would be used otherwise, and in which order. What is not among
    /// them is not added.
    func applied(to defaults: [String]) -> [String] {
        switch change {
        case nil: named(in: defaults)
        case .add: defaults
        case .remove: defaults.filter { !isNamed($0) }
        case .prepend: named(in: defaults) + defaults.filter { !isNamed($0) }
        }
    }

    /// Whether a user key or certificate of this type may be offered. RSA keys sign with three algorithms (RFC 8332).
    func allows(key type: String) -> Bool {
        let algorithms =
            switch type {
            case "ssh-rsa": ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"]
            case "ssh-rsa-cert-v01@openssh.com":
                ["rsa-sha2-512-cert-v01@openssh.com", "rsa-sha2-256-cert-v01@openssh.com", type]
            default: [type]
            }
        return algorithms.contains { algorithm in
            // What OpenSSH leaves out by default.
            let isDefault =
                !["ssh-rsa", "ssh-rsa-cert-v01@openssh.com"].contains(algorithm)
                && !algorithm.hasPrefix("ssh-dss")
            return switch change {
            case nil: isNamed(algorithm)
            case .add, .prepend: isDefault || isNamed(algorithm)
            case .remove: isDefault && !isNamed(algorithm)
            }
        }
    }

    private func isNamed(_ algorithm: String) -> Bool { patterns.contains { HostPattern.matches(algorithm, $0) } }

    private func named(in algorithms: [String]) -> [String] {
        var result: [String] = []
        for pattern in patterns {
            for algorithm in algorithms where HostPattern.matches(algorithm, pattern) && !result.contains(algorithm) {
                result.append(algorithm)
            }
        }
        return result
    }
}
