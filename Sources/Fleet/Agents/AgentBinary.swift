import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// An agent that cannot be used, with the reason.
package struct AgentBinaryError: Error, Hashable, Sendable, CustomStringConvertible {
    package var message: String
    package var description: String { message }

    package init(message: String) { self.message = message }
}

/// The program that is uploaded: its bytes, and what it says it needs.
package struct AgentBinary: Sendable {
    package let path: String
    /// In bytes.
    package let size: Int
    /// Lower-case hexadecimal.
    package let sha256: String
    /// As `uname -m` says it: `x86_64`, `aarch64`.
    package let architecture: String
    /// The loader it is started with; nil for a static program, which needs nothing but the kernel.
    package let interpreter: String?
    /// Shared libraries it needs.
    package let libraries: [String]
    /// Where it looks for them first; absolute directories only.
    package let libraryPaths: [String]
    /// The newest version of glibc it uses something of: `2.34`.
    package let glibcVersion: String?

    let bytes: [UInt8]
    /// ``bytes`` as they travel to machines that can undo it.
    let forms: AgentForms

    /// Bigger than any agent: a wrong file is found before it is read.
    private static let sizeLimit = 1 << 30

    /// Reads a Linux program.
    ///
    /// - Parameter cache: The directory in which compressed forms are kept from run to run; nil: nowhere.
    package init(path: String, cache: String? = nil) throws(AgentBinaryError) {
        let contents: [UInt8]?
        do {
            contents = try LocalFile.read(path, limit: Self.sizeLimit)
        } catch {
            throw AgentBinaryError(message: "the agent \(path) cannot be read: \(error.reason)")
        }
        guard let contents else { throw AgentBinaryError(message: "there is no agent at \(path)") }
        guard let image = ELFImage(contents) else {
            throw AgentBinaryError(message: "\(path) is no 64-bit little-endian Linux program (ELF)")
        }
        switch image.machine {
        case 62: architecture = "x86_64"
        case 183: architecture = "aarch64"
        default:
            throw AgentBinaryError(message: "\(path) is for a machine type (\(image.machine)) that is not supported")
        }
        self.path = path
        bytes = contents
        size = contents.count
        sha256 = hexadecimal(Digest.sha256(contents))
        forms = AgentForms(path: path, sha256: sha256, plain: contents, cache: cache)
        interpreter = image.interpreter
        libraries = image.neededLibraries
        libraryPaths = image.libraryPaths.filter { $0.hasPrefix("/") }
        glibcVersion = image.interpreter == nil ? nil : image.newestVersion(prefix: "GLIBC_")
    }

    /// The directory of this release: version and the beginning of the hash, so that two builds never mix.
    package var release: String { "\(AgentRelease.version)-\(sha256.prefix(12))" }
}
