/// Which certificate a server shows to whom: by the name that the client asks for (SNI, RFC 6066 §3), as RFC 9525 §6.3
/// compares names. Of two certificates for one name the first counts, and a name before a pattern.
struct ServerNames: Sendable {
    private var exact: [String: TLSContext] = [:]
    /// By what stands after the `*` of a pattern, with its dot.
    private var patterns: [String: TLSContext] = [:]

    mutating func add(_ context: TLSContext, for names: [String]) {
        for name in names.map({ $0.lowercased() }) {
            if name.hasPrefix("*.") {
                let suffix = String(name.dropFirst())
                if patterns[suffix] == nil { patterns[suffix] = context }
            } else if exact[name] == nil {
                exact[name] = context
            }
        }
    }

    func context(for name: String) -> TLSContext? {
        let name = name.lowercased()
        if let context = exact[name] { return context }
        // A pattern stands for one label.
        return name.firstIndex(of: ".").flatMap { patterns[String(name[$0...])] }
    }
}
