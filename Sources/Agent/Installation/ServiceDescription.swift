import SSHSignal

/// What a service runs, and how it is called: one for each installation, so that several on a machine do not meet.
struct ServiceDescription: Hashable {
    /// `bootstrap-node`, for the usual places; else with the beginning of the root's hash behind it.
    let name: String
    /// Absolute: `ROOT/current/bootstrap`.
    let program: String
    /// Absolute.
    let state: String

    /// What it writes to, absolute.
    let writable: [String]

    let arguments: [String]
    /// Added to the environment.
    let environment: [String: String]
    /// Who wrote it and who removes it, for who finds it.
    let origin: String
    /// What it is, in a word.
    let purpose: String

    /// The node of an installation.
    ///
    /// - Parameter state: absolute; its parent is what the installation's name is made of.
    init(program: String, state: String) {
        self.program = program
        self.state = state
        writable = [state]
        name = ServiceName(state: state).description
        arguments = [program, "supervise", "--state", state]
        environment = [:]
        origin = "Written by `bootstrap enroll`; `bootstrap unenroll` removes it."
        purpose = "mesh node of \(state)"
    }

    /// The operator's issuer.
    ///
    /// - Parameters:
    ///   - program: Absolute.
    ///   - options: Behind `ca serve`.
    ///   - home: `$BOOTSTRAP_HOME`, absolute.
    ///   - authority: The CA's directory, absolute; it may be outside of `home`.
    init(issuer program: String, options: [String], home: String, authority: String) {
        self.program = program
        state = home
        let isInside = authority.hasPrefix("\(home)/") && !authority.contains("/../") && !authority.hasSuffix("/..")
        writable = isInside ? [home] : [home, authority]
        name = "bootstrap-ca"
        arguments = [program, "ca", "serve"] + options
        environment = ["BOOTSTRAP_HOME": home]
        origin = "Written by `bootstrap ca serve --install`; `bootstrap ca serve --uninstall` removes it."
        purpose = "renews certificates of the mesh, with the CA in \(authority)"
    }

    /// Unit files, crontabs and scripts each quote in their own way; a path that needs none is the same in all of them.
    var isPlain: Bool {
        (arguments + writable).joined().utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: "/._+-@:,".utf8.contains(byte)
            }
        }
    }
}
