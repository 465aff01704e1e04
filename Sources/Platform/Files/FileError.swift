/// Why something about a file or a directory failed, with a message that says how to fix it.
package struct FileError: Error, Hashable, Sendable, CustomStringConvertible {
    package enum Code: Hashable, Sendable {
        /// The file or directory is not there.
        case notFound
        /// Something is there already that must not be overwritten.
        case alreadyExists
        /// Another process held the lock for too long.
        case timedOut
        /// Any other failure: no space, read-only, no access.
        case file
    }

    package var code: Code
    package var message: String

    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { message }
}
