import Platform

/// Where it is written how names are looked up.
package struct NameFiles: Sendable {
    /// resolv.conf(5): the name servers, and how long they are waited for.
    package var resolver = "/etc/resolv.conf"
    /// nsswitch.conf(5): which sources there are.
    package var sources = "/etc/nsswitch.conf"
    /// Of the name servers; nil: 53.
    package var port: UInt16?
    /// The program that asks what only the C library's modules know; nil: there is none.
    package var getent = Program.find("getent")

    package init() {}

    /// Tells whether one of them has changed.
    var stamp: FileStamp { FileStamp(of: [resolver, sources]) }
}

/// How long name servers are waited for: `timeout` and `attempts` of resolv.conf(5), which c-ares 1.18 knows by other
/// names only.
struct ServerPatience: Hashable {
    /// For the first answer; c-ares doubles it with each round.
    var timeout: Duration = .milliseconds(1500)
    /// Rounds, each of which asks every server.
    var attempts = 3

    init() {}

    /// - Parameter text: Of resolv.conf. What it does not say stays as it is here; its own limits hold.
    init(resolver text: [UInt8]) {
        for line in LocalFile.lines(of: text) {
            let words = line.text.split { $0 == " " || $0 == "\t" }
            guard words.first == "options" else { continue }
            for word in words.dropFirst() {
                let parts = word.split(separator: ":", maxSplits: 1)
                guard parts.count == 2, let value = Int(parts[1]) else { continue }
                if parts[0] == "timeout" { timeout = .seconds(max(1, min(value, 30))) }
                if parts[0] == "attempts" { attempts = max(1, min(value, 5)) }
            }
        }
    }
}

/// Where host names are looked up, one source after the other: the `hosts` line of nsswitch.conf(5).
struct NameSources: Hashable {
    enum Source: Hashable, Sendable {
        /// c-ares is asked, as its option `lookups` says: `f` is the hosts file, `b` the name servers.
        case cares(String)
        /// Modules of the C library, as the line names them. They are shared libraries, so that a program has to be
        /// asked that is linked to them.
        case modules(String)
    }

    struct Step: Hashable {
        var source: Source
        /// That there is no such name is the last word, when this source says it.
        var isFinal = false
    }

    private(set) var steps: [Step] = []
    /// An action stands behind a module. Only the C library knows what came of that module, so that whoever asks it is
    /// given the rest of the line as well, files and name servers included.
    private var asksRest = false

    /// - Parameters:
    ///   - text: Of nsswitch.conf; nil: there is no such file.
    ///   - asksModules: Whether there is a program that asks modules. Without one they are left out; the one that
    ///     stands for name servers too, `resolve`, is replaced by those.
    init(nsswitch text: [UInt8]?, asksModules: Bool) {
        for word in text.map(Self.words) ?? [] {
            switch word {
            case _ where asksRest: add(module: word)
            case "files": add("f")
            case "dns": add("b")
            case "resolve" where !asksModules: add("b")
            case _ where word.hasPrefix("["): act(word)
            default: if asksModules { add(module: word) }
            }
        }
        if steps.isEmpty { steps = [Step(source: .cares("fb"))] }
    }

    private mutating func add(_ letter: String) {
        if let last = steps.last, case .cares(let letters) = last.source, !last.isFinal {
            if !letters.contains(letter) { steps[steps.count - 1].source = .cares(letters + letter) }
        } else {
            steps.append(Step(source: .cares(letter)))
        }
    }

    private mutating func add(module: String) {
        if let last = steps.last, case .modules(let names) = last.source {
            steps[steps.count - 1].source = .modules("\(names) \(module)")
        } else {
            steps.append(Step(source: .modules(module)))
        }
    }

    /// `[NOTFOUND=return]` and its like.
    private mutating func act(_ action: String) {
        guard let last = steps.last else { return }
        switch last.source {
        case .modules:
            add(module: action)
            asksRest = true
        case .cares:
            let words = action.dropFirst().dropLast().lowercased().split(separator: " ")
            let ends = words.contains { $0 == "notfound=return" || $0 == "!unavail=return" || $0 == "!success=return" }
            if ends { steps[steps.count - 1].isFinal = true }
        }
    }

    /// The words of the `hosts` line; what stands in brackets is one.
    private static func words(of text: [UInt8]) -> [String] {
        for line in LocalFile.lines(of: text) {
            let text = line.text.prefix { $0 != "#" }
            guard let colon = text.firstIndex(of: ":"),
                text[..<colon].drop(while: \.isWhitespace).prefix(while: { !$0.isWhitespace }) == "hosts"
            else { continue }
            var words: [String] = []
            var rest = text[text.index(after: colon)...].drop(while: \.isWhitespace)
            while let first = rest.first {
                let isAction = first == "["
                let word = rest.prefix { isAction ? $0 != "]" : !$0.isWhitespace && $0 != "[" }
                words.append(
                    isAction ? word.split(whereSeparator: \.isWhitespace).joined(separator: " ") + "]" : String(word)
                )
                rest = rest[word.endIndex...]
                if isAction { rest = rest.dropFirst() }
                rest = rest.drop(while: \.isWhitespace)
            }
            return words
        }
        return []
    }
}
