import CLinux
import Glibc
import Platform

/// Reads `ssh_config(5)` files for one destination. As in `ssh`, reading and deciding are one pass, because a `Match`
/// depends on what the lines before it set.
struct ConfigurationEvaluation {
    /// What has been set so far; the first value stays.
    struct Options {
        var hostName: ConfigurationValue?
        var user: String?
        var port: UInt16?
        /// The one option whose lines add up.
        var identityFiles: [ConfigurationValue] = []
        var identitiesOnly: Bool?
        var userKnownHostsFiles: [ConfigurationValue]?
        var globalKnownHostsFiles: [ConfigurationValue]?
        var hostKeyAlias: String?
        var hashKnownHosts: Bool?
        var strictHostKeyChecking: StrictHostKeyChecking?
        /// Of the jump hosts and the command the first one counts; `none` in the jump hosts' place leaves the command.
        var proxyJump: ConfigurationValue?
        var hasProxyCommand = false
        /// Seconds; 0: for ever.
        var connectTimeout: Int?
        /// Lines add up, too.
        var certificateFiles: [ConfigurationValue] = []
        var identityAgent: ConfigurationValue?
        var preferredAuthentications: [String]?
        var publicKey: Bool?
        var password: Bool?
        var keyboardInteractive: Bool?
        var gssapi: Bool?
        var hostBased: Bool?
        var batchMode: Bool?
        var passwordPrompts: Int?
        var serverAliveInterval: Int?
        var serverAliveCountMax: Int?
        var addressFamily: AddressFamily?
        var bindAddress: String?
        var tag: String?
        var logLevel: String?
        var trustsLoopback: Bool?
        var ciphers: AlgorithmList?
        var macs: AlgorithmList?
        var keyExchanges: AlgorithmList?
        var hostKeyAlgorithms: AlgorithmList?
        var acceptedKeys: AlgorithmList?
        var controlPath: ConfigurationValue?
        var controlMaster: ControlMaster?
        var controlPersist: ControlPersist?
        var exitOnForwardFailure: Bool?
        /// Keywords without a value here that had their first one.
        var seen: Set<String> = []

        /// As they were written; empty without any.
        var jumpHosts: String { proxyJump.flatMap { $0.text.lowercased() == "none" ? nil : $0.text } ?? "" }
    }

    /// Where a line stands.
    struct Place {
        var file: String?
        var line: Int?
        /// Relative `Include`s of the user's file are below `~/.ssh`, those of the system's below `/etc/ssh`.
        var isUserFile = true
        var depth = 0

        /// `FILE:LINE: `, or nothing.
        var description: String { file.map { file in line.map { "\(file):\($0): " } ?? "\(file): " } ?? "" }
    }

    let destination: Destination
    let account: LocalAccount
    var options = Options()
    var notes: [ConfigurationNote] = []
    var limits: [EngineLimit] = []

    /// `Match final` was met: all files are read once more with the name to dial in the place of what was typed.
    var wantsFinalPass = false
    private(set) var isFinalPass = false
    /// What `Host` lines are compared with.
    private var matchedHost: String
    private var included = 0

    /// As in OpenSSH.
    private static let maximumIncludeDepth = 16
    /// A file that includes itself twice would be read 2^16 times.
    private static let maximumIncludes = 512

    init(destination: Destination, account: LocalAccount) {
        self.destination = destination
        self.account = account
        matchedHost = destination.host
        options.user = destination.user
        options.port = destination.port
    }

    mutating func apply(_ arguments: SSHArguments) throws(SSHConfigurationError) {
        options.port = options.port ?? arguments.port
        options.identityFiles = arguments.identityFiles.map { ConfigurationValue(text: $0) }
        if let jump = arguments.jump { options.proxyJump = ConfigurationValue(text: jump) }
        try apply(options: arguments.options)
        try readFiles(arguments.configurationFile)
        guard wantsFinalPass else { return }
        matchedHost = try dialledName()
        isFinalPass = true
        included = 0
        options.hostName = ConfigurationValue(text: matchedHost)
        try readFiles(arguments.configurationFile)
    }

    /// Those of `-o`.
    mutating func apply(options list: [String]) throws(SSHConfigurationError) {
        var active = true
        var ignored: [String]?
        for option in list {
            do throws(SSHConfigurationError) {
                guard let line = try ConfigurationLine(parsing: option) else {
                    throw SSHConfigurationError("it is empty")
                }
                guard !["host", "match", "include"].contains(line.keyword.lowercased()) else {
                    throw SSHConfigurationError("\(line.keyword) stands in a file only")
                }
                // A file may be for another release of ssh; what is typed is a mistake.
                try KnownKeywords.check(line.keyword, ignoring: ignored ?? [])
                if ignored == nil, line.keyword.lowercased() == "ignoreunknown" {
                    ignored = line.arguments.flatMap { $0.lowercased().split(separator: ",").map(String.init) }
                }
                try apply(line, at: Place(), active: &active, neverActive: false)
            } catch {
                throw SSHConfigurationError("option -o '\(option)': \(error.message)")
            }
        }
    }

    private mutating func readFiles(_ file: String?) throws(SSHConfigurationError) {
        if let file {
            guard file.lowercased() != "none" else { return }
            guard try read(Place(file: file), active: true) else {
                throw SSHConfigurationError("the configuration file \(file) does not exist")
            }
        } else {
            let file = account.home + "/.ssh/config"
            _ = try read(Place(file: file), active: true, checksAccess: true)
            _ = try read(Place(file: "/etc/ssh/ssh_config", isUserFile: false), active: true)
        }
    }

    /// The name to dial in the spelling of `ssh`: names in small letters, addresses in their short form.
    func dialledName() throws(SSHConfigurationError) -> String {
        let name = try hostName()
        guard let address = IPAddress(name), !name.hasPrefix("::ffff:") else { return name.lowercased() }
        return "\(address)"
    }

    /// The name to dial, as far as it is known by now.
    func hostName() throws(SSHConfigurationError) -> String {
        guard let value = options.hostName, !isFinalPass else { return isFinalPass ? matchedHost : destination.host }
        let expansion = TokenExpansion(
            account: account,
            hostName: destination.host,
            originalHost: destination.host,
            port: 22,
            user: ""
        )
        return try expansion.tokens(value, allowed: "h")
    }

    // MARK: Files

    /// False when there is no such file.
    ///
    /// - Parameter checksAccess: As `ssh`: a configuration that others can change decides whom we trust, so it is not
    ///   used. One that is named on the command line is that user's affair.
    private mutating func read(
        _ place: Place,
        active: Bool,
        neverActive: Bool = false,
        checksAccess: Bool = false
    ) throws(SSHConfigurationError) -> Bool {
        let path = place.file ?? ""
        let file: (bytes: [UInt8], access: FileAccess)?
        do throws(LocalFile.Failure) {
            file = try LocalFile.readWithAccess(path)
        } catch {
            // `Include conf.d/*` may meet a directory, which has no lines.
            if error.number == EISDIR { return true }
            throw SSHConfigurationError(file: path, "cannot be read: \(error.reason)")
        }
        guard let file else { return false }
        if checksAccess { try check(file.access, of: path) }
        var active = active
        for (number, text) in LocalFile.lines(of: file.bytes) {
            var place = place
            place.line = number
            do throws(SSHConfigurationError) {
                guard let line = try ConfigurationLine(parsing: text) else { continue }
                try apply(line, at: place, active: &active, neverActive: neverActive)
            } catch {
                // An error of an included file keeps its own place.
                if error.file != nil { throw error }
                throw SSHConfigurationError(file: path, line: number, error.message)
            }
        }
        return true
    }

    private func check(_ access: FileAccess, of file: String) throws(SSHConfigurationError) {
        guard access.owner == 0 || access.owner == account.userID, access.mode & 0o022 == 0 else {
            throw SSHConfigurationError(
                file: file,
                "bad owner or permissions: only its owner may write to it (chmod 600 \(file))"
            )
        }
    }

    private mutating func include(
        _ line: ConfigurationLine,
        at place: Place,
        active: Bool
    ) throws(SSHConfigurationError) {
        guard !line.arguments.isEmpty else { throw SSHConfigurationError("Include has no file") }
        guard place.depth < Self.maximumIncludeDepth else {
            throw SSHConfigurationError("more than \(Self.maximumIncludeDepth) files include each other")
        }
        for argument in line.arguments {
            guard !argument.isEmpty else { throw SSHConfigurationError("Include has an empty file name") }
            var pattern = argument
            if pattern.hasPrefix("~") {
                guard place.isUserFile else {
                    throw SSHConfigurationError("Include '\(pattern)': a file for all users has no home directory")
                }
                guard let path = account.expandingHome(pattern) else {
                    if active { limit(.keyword, "Include \(pattern)", at: place) }
                    continue
                }
                pattern = path
            } else if !pattern.hasPrefix("/") {
                pattern = (place.isUserFile ? account.home + "/.ssh/" : "/etc/ssh/") + pattern
            }
            for file in Self.glob(pattern) {
                included += 1
                guard included <= Self.maximumIncludes else {
                    throw SSHConfigurationError("more than \(Self.maximumIncludes) files are included")
                }
                let inner = Place(file: file, isUserFile: place.isUserFile, depth: place.depth + 1)
                // Below a block that is not in effect, no line of the file can be, whatever its own Host lines say.
                _ = try read(inner, active: active, neverActive: !active, checksAccess: true)
            }
        }
    }

    private static func glob(_ pattern: String) -> [String] {
        var result = glob_t()
        defer { globfree(&result) }
        guard Glibc.glob(pattern, 0, nil, &result) == 0 else { return [] }
        return (0..<Int(result.gl_pathc)).compactMap { index in result.gl_pathv[index].map { String(cString: $0) } }
    }

    // MARK: Lines

    private mutating func apply(
        _ line: ConfigurationLine,
        at place: Place,
        active: inout Bool,
        neverActive: Bool
    ) throws(SSHConfigurationError) {
        switch line.keyword.lowercased() {
        case "host":
            guard !line.arguments.isEmpty else { throw SSHConfigurationError("Host has no pattern") }
            active = !neverActive && HostPattern.matches(matchedHost, list: line.arguments)
        case "match":
            let matches = try match(line.criteria(), at: place, neverActive: neverActive)
            active = !neverActive && matches
        case "include":
            try include(line, at: place, active: active)
        default:
            try set(line, at: place, active: active)
        }
    }

    /// A line that only `ssh` itself can follow.
    mutating func limit(_ kind: EngineLimit.Kind, _ text: String, at place: Place) {
        let note = ConfigurationNote(
            keyword: text,
            file: place.file,
            line: place.line,
            changesConnection: true,
            isForSSHOnly: true
        )
        if !notes.contains(note) { notes.append(note) }
        let limit = EngineLimit(kind, "\(place.description)\(text) is for ssh alone", isDecisive: true)
        if !limits.contains(limit) { limits.append(limit) }
    }

    mutating func note(_ keyword: String, at place: Place, changesConnection: Bool) {
        let note = ConfigurationNote(
            keyword: keyword,
            file: place.file,
            line: place.line,
            changesConnection: changesConnection
        )
        // A second pass meets all lines again.
        if !notes.contains(note) { notes.append(note) }
    }
}
