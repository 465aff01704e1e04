package import MeshPolicy
package import Streams

/// A stream to a destination behind a peer, and what carries it.
package struct OpenedStream {
    package let stream: ByteStream
    package let path: PathID
}
