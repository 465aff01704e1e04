import Platform

/// Why what a directory says is not taken, or could not be read or written.
package struct DirectoryError: Error, Hashable, Sendable, CustomStringConvertible {
    package enum Code: String, Hashable, Sendable {
        /// There is nothing yet.
        case missing
        /// Its text is damaged, or says what makes no sense.
        case damaged
        /// It has no signature, or one that nobody who is trusted has made.
        case unsigned
        /// Of another mesh.
        case foreign
        /// Older than what was there before.
        case backwards
        /// More than anybody takes.
        case limit
        /// Somebody else has changed it meanwhile.
        case conflict
        /// It could not be asked, or did not answer.
        case unreachable
    }

    package var code: Code
    package var message: String

    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { message }
}
