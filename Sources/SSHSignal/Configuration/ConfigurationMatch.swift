import Platform

/// `Match` of `ssh_config(5)`.
extension ConfigurationEvaluation {
    /// Whether the criteria of a `Match` line hold by what is set so far.
    ///
    /// - Parameter neverActive: The line cannot take effect: what it needs beyond this is nobody's concern.
    mutating func match(
        _ criteria: [String],
        at place: Place,
        neverActive: Bool
    ) throws(SSHConfigurationError) -> Bool {
        guard !criteria.isEmpty else { throw SSHConfigurationError("Match has no criterion") }
        var matches = true
        var count = 0
        var rest = criteria[...]
        while let word = rest.popFirst() {
            let isNegated = word.hasPrefix("!")
            let criterion = (isNegated ? String(word.dropFirst()) : word).lowercased()
            if criterion == "all" {
                // `Match final all` is how ssh_config(5) has it.
                guard rest.isEmpty, count <= 1 else { throw SSHConfigurationError("Match all stands alone") }
                return matches && !isNegated
            }
            count += 1
            if criterion == "canonical" || criterion == "final" {
                // The second pass is asked for by what may match in it, whether or not it does.
                if criterion == "final" { wantsFinalPass = true }
                if isFinalPass == isNegated { matches = false }
                continue
            }
            guard let value = rest.popFirst(), !value.isEmpty else {
                throw SSHConfigurationError("Match \(criterion) has no value")
            }
            guard let holds = try holds(criterion, value) else {
                // Running a command, or guessing its outcome, is not for a program that only reads the file.
                if matches, !neverActive { limit(.match, "Match \(criterion)", at: place) }
                matches = false
                continue
            }
            if holds == isNegated { matches = false }
        }
        return matches
    }

    /// nil for a criterion that only `ssh` itself can decide.
    private func holds(_ criterion: String, _ value: String) throws(SSHConfigurationError) -> Bool? {
        func isListed(_ text: String) -> Bool {
            HostPattern.matches(text, list: value.split(separator: ","))
        }
        switch criterion {
        case "host":
            return HostPattern.matches(try hostName().lowercased(), list: value.lowercased().split(separator: ","))
        case "originalhost":
            return HostPattern.matches(destination.host.lowercased(), list: value.lowercased().split(separator: ","))
        case "user": return isListed(options.user ?? account.user)
        case "localuser": return isListed(account.user)
        case "tagged": return isListed(options.tag ?? "")
        case "exec", "localnetwork", "version", "sessiontype", "command": return nil
        default: throw SSHConfigurationError("Match has an unknown criterion '\(criterion)'")
        }
    }
}
