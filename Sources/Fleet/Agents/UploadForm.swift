/// A compressed form in which the agent travels; in the order in which they are preferred. By the program that undoes
/// it on the device.
///
/// Of the agent's 24.5 MB zstd at its level 19 leaves 8.4 and takes 0.05 s to undo, xz leaves 7.8 and takes 0.3 s (a
/// small machine takes ten times as long), gzip 10.8 and 0.1 s. Each needs less than 10 MB of memory there.
package enum UploadForm: String, CaseIterable, Hashable, Sendable {
    case zstd
    case xz
    case gzip

    /// Behind a file's name.
    var suffix: String {
        switch self {
        case .zstd: "zst"
        case .xz: "xz"
        case .gzip: "gz"
        }
    }

    /// Undoes it, from standard input to standard output.
    var decompression: String { "\(rawValue) -dc" }
}
