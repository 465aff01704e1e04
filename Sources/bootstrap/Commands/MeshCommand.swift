import ArgumentParser
import Fleet
import Glibc
import MeshDirectory
import MeshIdentity
import MeshNode
import Platform
import Streams

struct MeshCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mesh",
        abstract:
            "Read, change and watch the mesh's directory: endpoints, policies, bundles and revocations for every node.",
        discussion: """
            The directory is a file, or keys in etcd, that nodes follow ('directory' in node.yaml, docs/directory.md). It is signed with a \
            key that the CA vouches for: nodes take nothing else, whoever owns the file or etcd.

              bootstrap mesh get > mesh.yaml
              $EDITOR mesh.yaml
              bootstrap mesh put mesh.yaml
            """,
        subcommands: [MeshGet.self, MeshPut.self, MeshWatch.self]
    )
}

/// Whose word counts: the CA beside the operator's files, or the identity of the node whose configuration is named.
private func trustBundle(_ options: DirectoryOptions, ca: String) throws -> TrustBundle {
    do {
        if access("\(ca)/ca-cert.pem", F_OK) != 0, let config = options.config {
            return try NodeConfiguration.load(config).ownBundle()
        }
        return try EmbeddedCA.directoryBundle(directory: ca)
    } catch let error as IdentityError {
        throw fail(error)
    } catch {
        throw fail("\(error)", .usage)
    }
}

private func fail(_ error: DirectoryError, _ settings: DirectorySettings) -> ExitCode {
    let code: ExitCode =
        switch error.code {
        case .unreachable: .unreachable
        case .unsigned, .foreign, .backwards: .authenticationRefused
        case .missing, .damaged, .limit, .conflict: .failed
        }
    return fail("\(settings): \(error.message)", code)
}

struct MeshGet: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get",
        abstract: "Print what the directory says.",
        discussion: """
            YAML, below lines of comment that say which revision it is: `mesh put` needs them to notice that somebody else has made a \
            change meanwhile. What is not signed by the mesh's own key is not printed.
            """
    )

    @OptionGroup var messages: MessageOptions
    @OptionGroup var place: DirectoryOptions
    @OptionGroup var location: CALocation

    @Option(help: ArgumentHelp("text, or json: one object on stdout.", valueName: "FORMAT"))
    var output = ResultFormat.text

    func run() async throws {
        let settings = try place.settings()
        let bundle = try trustBundle(place, ca: location.path)
        let bytes: [UInt8]
        do throws(DirectoryError) {
            guard let document = try await DirectoryStore(settings).read() else {
                throw DirectoryError(.missing, "there is nothing there yet; `bootstrap mesh put FILE` writes it")
            }
            let force = try DirectoryInForce(document, from: settings.description, bundle: bundle)
            switch output {
            case .text: bytes = document.file
            case .json: bytes = Self.json(force)
            }
        } catch {
            throw fail(error, settings)
        }
        guard writeStandardOutput(bytes) else { throw fail("stdout cannot be written") }
    }

    private static func json(_ force: DirectoryInForce) -> [UInt8] {
        var json = JSONWriter()
        json.object { json in
            json.key("domain")
            json.string(force.manifest.domain)
            json.key("revision")
            json.number(force.revision)
            json.key("signedAt")
            json.string(describe(time: force.manifest.time))
            json.key("content")
            force.content.write(into: &json)
        }
        json.endLine()
        return json.take()
    }
}

struct MeshPut: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "put",
        abstract: "Check a file, sign it, and have it be what the directory says.",
        discussion: """
            Everything in the file is checked before anything is written. The comment that `mesh get` has put at its beginning says what it \
            was made from: if the directory says something else by now, nothing is written, and the command says so. A file without that \
            comment is the first of its directory, or takes the place of whatever is there with --replace.
            """
    )

    @Argument(help: ArgumentHelp("The file; - is stdin.", valueName: "FILE"))
    var file: String

    @Flag(help: "Take the place of whatever is there, also of what nobody has signed.")
    var replace = false

    @Flag(
        help: "Let go of the revocations that are there, where the file has none: nodes take those certificates again."
    )
    var dropRevocations = false

    @OptionGroup var messages: MessageOptions
    @OptionGroup var place: DirectoryOptions
    @OptionGroup var access: CAAccess

    func run() async throws {
        let settings = try place.settings()
        let bytes = try contents()
        let bundle: TrustBundle
        do throws(IdentityError) {
            bundle = try EmbeddedCA.directoryBundle(directory: access.location.path)
        } catch {
            throw fail(error)
        }
        let wanted: DirectoryContent
        do throws(ConfigurationError) {
            // With the comment, so that lines are those of the file.
            wanted = try DirectoryContent(parsing: bytes, file: file, bundle: bundle)
        } catch {
            throw fail("\(error)\nnothing was written", .usage)
        }
        for text in DirectoryContent.strangers(in: bytes, file: file, bundle: bundle) { printWarning(text) }
        let signer = try signer()
        do throws(DirectoryError) {
            let base = try Self.base(of: bytes)
            let content = base.map { Array(bytes[$0.bytes.count...]) } ?? bytes
            let store = DirectoryStore(settings)
            let memory = DirectoryMemory(of: settings, ca: access.location.path)
            let written = try last(memory, of: bundle.trustDomain)
            let (previous, present) = try await self.previous(store, base)
            try checkRevocations(of: wanted, after: present, bundle, settings)
            // An earlier copy that somebody has put back is not to be signed as the newest.
            if !replace, let origin = present?.manifest ?? base {
                do throws(DirectoryError) {
                    try origin.check(after: written)
                } catch {
                    throw DirectoryError(
                        error.code,
                        "\(error.message). Nothing was written; --replace takes its place with what the file says"
                    )
                }
            }
            // What nobody has signed says any number.
            let known = [present?.manifest, base].compactMap { $0 }.filter { (try? $0.verify(with: bundle)) != nil }
            let revision = max(known.map(\.revision).max() ?? 0, written?.revision ?? 0)
            let isSigned = present?.manifest.certificate == signer.certificate.der
            if let present, present.content == content, isSigned, !replace {
                return printDone("\(settings) says so already, at revision \(present.revision)")
            }
            let document = try SignedDirectory(
                content: content,
                domain: bundle.trustDomain,
                revision: max(WallClock.system.seconds, revision + 1),
                signer: signer
            )
            try await store.write(document, replacing: previous)
            try memory.remember(document.manifest)
            printDone("\(settings) is at revision \(document.revision)")
        } catch {
            throw fail(error, settings)
        }
    }

    /// A file that was written by hand says nothing of who was revoked, and hardly means that all of them are back.
    private func checkRevocations(
        of wanted: DirectoryContent,
        after present: SignedDirectory?,
        _ bundle: TrustBundle,
        _ settings: DirectorySettings
    ) throws(DirectoryError) {
        guard !dropRevocations, wanted.revocations == nil, let present,
            (try? present.manifest.verify(with: bundle)) != nil,
            let former = try? DirectoryContent(present, file: settings.description, bundle: bundle),
            former.revocations != nil
        else { return }
        throw DirectoryError(
            .conflict,
            "the directory has 'revocations' at revision \(present.revision), and the file has none: nodes that know of them from there "
                + "take those certificates again once they are started anew. Copy that section from `bootstrap mesh get` into the file, or give "
                + "--drop-revocations. Nothing was written"
        )
    }

    private func contents() throws -> [UInt8] {
        let limit = DirectoryManifest.maximumContent + DirectoryManifest.maximumLength
        do throws(FileError) {
            return try AtomicFile.read(file == "-" ? "/proc/self/fd/0" : file, limit: limit)
        } catch {
            guard file == "-" else { throw fail(error.message, .usage) }
        }
        // A pipe.
        var bytes: [UInt8] = []
        while let line = readLine(strippingNewline: false), bytes.count <= limit { bytes += Array(line.utf8) }
        return bytes
    }

    private func signer() throws -> DirectorySigner {
        do throws(IdentityError) {
            if let signer = try DirectorySigner.load(directory: access.location.path) { return signer }
        } catch {
            throw fail(error)
        }
        let authority = try access.load()
        do throws(IdentityError) {
            return try authority.directorySigner()
        } catch {
            throw fail(error)
        }
    }

    /// The manifest that the file begins with; nil: it has none.
    private static func base(of bytes: [UInt8]) throws(DirectoryError) -> DirectoryManifest? {
        do throws(DirectoryError) {
            return try DirectoryManifest(parsing: bytes)
        } catch {
            guard error.code == .unsigned else {
                throw DirectoryError(
                    error.code,
                    "the comment at the beginning of the file was changed (\(error.message)): leave it as `mesh get` has written it, or "
                        + "take it away and give --replace"
                )
            }
            return nil
        }
    }

    /// What was written last from here. Who replaces everything needs to know nothing.
    private func last(
        _ memory: DirectoryMemory,
        of domain: TrustDomain
    ) throws(DirectoryError) -> DirectoryManifest? {
        do throws(DirectoryError) {
            return try memory.last(of: domain)
        } catch {
            guard replace else { throw error }
            return nil
        }
    }

    /// What is to be replaced, and what it says.
    private func previous(
        _ store: DirectoryStore,
        _ base: DirectoryManifest?
    ) async throws(DirectoryError) -> (DirectoryStore.Previous, SignedDirectory?) {
        let present: SignedDirectory?
        do throws(DirectoryError) {
            present = try await store.read()
        } catch {
            // The directory's own file, changed in its place.
            if case .file(let own) = store, own.path == file {
                return (base.map { .manifest($0) } ?? .nothing, nil)
            }
            guard replace, error.code != .unreachable else { throw error }
            return (.anything, nil)
        }
        if replace { return (.anything, present) }
        guard let present else {
            // With a comment: it was there once.
            return (.nothing, nil)
        }
        guard let base else {
            throw DirectoryError(
                .conflict,
                "the directory is at revision \(present.revision), and the file does not say what it was made from: begin with "
                    + "`bootstrap mesh get`, or give --replace to lose what is there. Nothing was written"
            )
        }
        guard base.bytes == present.manifest.bytes else {
            throw DirectoryError(
                .conflict,
                "the directory is at revision \(present.revision), and the file was made from revision \(base.revision): `bootstrap mesh get` "
                    + "it again, make your change there, and put that. Nothing was written"
            )
        }
        return (.manifest(base), present)
    }
}

struct MeshWatch: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch",
        abstract: "Print each change of the directory, until it is stopped.",
        discussion: "One line says which revision it is, and one each what went (-) and what came (+)."
    )

    @OptionGroup var messages: MessageOptions
    @OptionGroup var place: DirectoryOptions
    @OptionGroup var location: CALocation

    @Option(help: ArgumentHelp("text, or json: one object for each change on stdout.", valueName: "FORMAT"))
    var output = ResultFormat.text

    private struct Change: Encodable {
        var revision: Int64
        var signedAt: String
        var removed: [String]
        var added: [String]
    }

    func run() async throws {
        let settings = try place.settings()
        let bundle = try trustBundle(place, ca: location.path)
        let last = Lock<(force: DirectoryInForce, lines: [Substring])?>(nil)
        let output = output
        // What does not work is tried again and again, and said once.
        let said = Lock("")
        let warn: @Sendable (String) -> Void = { problem in
            let isNews = said.withLock { last in
                defer { last = problem }
                return last != problem
            }
            if isNews { printWarning("\(settings): \(problem)") }
        }
        await DirectoryStore(settings).follow { event in
            switch event {
            case .failed(let error): warn(error.message)
            case .missing: warn("there is nothing there")
            case .document(let document):
                let before = last.withLock { $0 }
                guard document.manifest != before?.force.manifest else { return }
                do throws(DirectoryError) {
                    let force = try DirectoryInForce(
                        document,
                        from: settings.description,
                        bundle: bundle,
                        after: before?.force
                    )
                    let lines = String(decoding: document.content, as: UTF8.self).split(separator: "\n")
                    last.withLock { $0 = (force, lines) }
                    said.withLock { $0 = "" }
                    Self.tell(force, before?.lines ?? [], lines, output)
                } catch {
                    warn("nothing of it is to be taken: \(error.message)")
                }
            }
        }
    }

    private static func tell(
        _ force: DirectoryInForce,
        _ before: [Substring],
        _ now: [Substring],
        _ output: ResultFormat
    ) {
        let (old, new) = (Set(before), Set(now))
        let removed = before.filter { !new.contains($0) }.map(String.init)
        let added = now.filter { !old.contains($0) }.map(String.init)
        let time = describe(time: force.manifest.time)
        guard output == .text else {
            return printJSON(Change(revision: force.revision, signedAt: time, removed: removed, added: added))
        }
        printLine("revision \(force.revision), signed \(time)")
        for line in removed { printLine("- \(line)") }
        for line in added { printLine("+ \(line)") }
    }
}
