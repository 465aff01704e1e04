/// The content of a directory, cut into segments each of which can be read by itself, and means by itself what it means
/// in its place. Who knows what a segment means need not read it again: of a change, the segments that are new are all
/// there is to read.
///
/// A segment is one part of the manifest, as a rule; it is more where a cut would go through something. It begins with
/// a section (`devices:`), or with an element (`- `) of the list that the one before has begun, at the beginning of a
/// line. Neither can stand there inside of anything that is whole by itself: so whoever reads all segments, each alone,
/// and finds each whole, has read the content. That is what has to be checked by reading: the lines alone do not say
/// it.
package struct DirectoryOutline: Sendable {
    package struct Segment: Hashable, Sendable {
        /// The hashes of its parts.
        package let parts: [String]
        /// The list that its first elements belong to; nil: it begins with a section, and means the same wherever it
        /// is.
        package let list: String?
        /// The list that goes on at its end; nil: nothing does.
        package let openList: String?
        package let sections: [Section]
    }

    /// A section, or as much of it as there is in a segment.
    package struct Section: Hashable, Sendable {
        package let name: String
        /// It has begun in a segment before.
        package let isContinued: Bool
        /// Behind its name there is nothing on the line: a list, which may go on in the next segment, and may have no
        /// elements in this one.
        package let isList: Bool
        /// In its segment. With a remark above the first one.
        package let range: Range<Int>
    }

    package struct Place: Sendable {
        package let segment: Segment
        /// In the content.
        package let range: Range<Int>
    }

    package let places: [Place]
    /// How many segments are new.
    package let newSegments: Int

    /// - Parameter known: Segments that need not be looked at again.
    /// - Returns: nil: its lines are written so that it cannot be cut. It may be good all the same.
    package init?(_ document: SignedDirectory, known: some Sequence<Segment> = EmptyCollection<Segment>()) {
        let (content, parts) = (document.content, document.manifest.parts)
        var knownByStart: [String: Segment] = [:]
        for segment in known { knownByStart[segment.parts[0]] = segment }
        var places: [Place] = []
        var newSegments = 0
        var (first, start) = (0, 0)
        var list: String?
        var names: Set<String> = []
        while first < parts.count {
            var segment: Segment?
            var (next, end) = (first, start)
            if let known = knownByStart[parts[first].hash], known.list == nil || known.list == list,
                known.parts.count <= parts.count - first,
                known.parts.indices.allSatisfy({ known.parts[$0] == parts[first + $0].hash })
            {
                next = first + known.parts.count
                for part in parts[first..<next] { end += part.length }
                if Self.canBegin(at: end, of: content, in: known.openList) { segment = known }
            }
            if segment == nil {
                (next, end) = (first, start)
                var lines = Lines(list)
                repeat {
                    let length = parts[next].length
                    lines.read(content[end..<end + length], at: end - start)
                    guard lines.isPlain else { return nil }
                    next += 1
                    end += length
                } while !Self.canBegin(at: end, of: content, in: lines.openList)
                newSegments += 1
                segment = Segment(
                    parts: parts[first..<next].map(\.hash),
                    list: lines.list,
                    openList: lines.openList,
                    sections: lines.sections(upTo: end - start)
                )
            }
            guard let segment else { return nil }
            for section in segment.sections where !section.isContinued {
                guard names.insert(section.name).inserted else { return nil }
            }
            places.append(Place(segment: segment, range: start..<end))
            (first, start, list) = (next, end, segment.openList)
        }
        self.places = places
        self.newSegments = newSegments
    }

    /// Whether a segment can begin there, where `list` is open.
    private static func canBegin(at place: Int, of content: [UInt8], in list: String?) -> Bool {
        guard place < content.count else { return true }
        guard content[place - 1] == UInt8(ascii: "\n") else { return false }
        return switch Line(content[place...]) {
        case .element: list != nil
        case .section: true
        default: false
        }
    }

    /// What a line begins with.
    private enum Line {
        case section(name: String, isAlone: Bool)
        case element
        case indented
        /// Nothing, or a remark.
        case blank
        case other

        init(_ bytes: ArraySlice<UInt8>) {
            guard let first = bytes.first else {
                self = .blank
                return
            }
            switch first {
            case UInt8(ascii: "\n"), UInt8(ascii: "#"): self = .blank
            case UInt8(ascii: " "): self = .indented
            case UInt8(ascii: "-"): self = bytes.dropFirst().first == UInt8(ascii: " ") ? .element : .other
            default: self = Self.section(bytes) ?? .other
            }
        }

        private static func section(_ bytes: ArraySlice<UInt8>) -> Line? {
            let name = bytes.prefix { (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0) }
            var rest = bytes[name.endIndex...]
            guard !name.isEmpty, name.count < 32, rest.popFirst() == UInt8(ascii: ":") else { return nil }
            let text = rest.drop { $0 == UInt8(ascii: " ") }
            // The part may end here, and the line go on in the next.
            guard let next = text.first else { return nil }
            let isAlone =
                switch next {
                case UInt8(ascii: "\n"): true
                case UInt8(ascii: "#"): text.startIndex > rest.startIndex
                default: false
                }
            guard isAlone || text.startIndex > rest.startIndex else { return nil }
            return .section(name: String(decoding: name, as: UTF8.self), isAlone: isAlone)
        }
    }

    /// Reads lines of one segment.
    private struct Lines {
        /// The one that its first elements belong to.
        private(set) var list: String?
        /// Nothing was found that another reader could take for something else.
        private(set) var isPlain = true
        private(set) var openList: String?
        private var hasElements: Bool
        private var heads: [(name: String, isList: Bool, start: Int)] = []
        private var isInLine = false
        private var hasContent = false

        init(_ list: String?) {
            self.list = list
            openList = list
            // Of the segment before; or none yet, and an indented line says that it is no list.
            hasElements = false
            if let list { heads.append((list, true, 0)) }
        }

        mutating func read(_ bytes: ArraySlice<UInt8>, at offset: Int) {
            bytes.withUnsafeBufferPointer { buffer in
                var place = 0
                while place < buffer.count, isPlain {
                    let end = buffer[place...].firstIndex(of: UInt8(ascii: "\n")) ?? buffer.count
                    if !isInLine {
                        let start = bytes.startIndex + place
                        let stop = min(bytes.endIndex, bytes.startIndex + end + 1)
                        read(Line(bytes[start..<stop]), at: offset + place)
                    }
                    isInLine = end == buffer.count
                    place = end + 1
                }
            }
        }

        private mutating func read(_ line: Line, at place: Int) {
            switch line {
            case .blank: return
            case .section(let name, let isAlone):
                // It begins with a section, whatever is before it.
                if !hasContent { (list, heads) = (nil, []) }
                heads.append((name, isAlone, hasContent ? place : 0))
                openList = isAlone ? name : nil
                hasElements = false
            case .element:
                guard openList != nil else {
                    isPlain = false
                    return
                }
                hasElements = true
            case .indented:
                guard hasContent else {
                    isPlain = false
                    return
                }
                if !hasElements { openList = nil }
            case .other: isPlain = false
            }
            hasContent = true
        }

        func sections(upTo end: Int) -> [Section] {
            heads.enumerated().map { index, head in
                let stop = index + 1 < heads.count ? heads[index + 1].start : end
                return Section(
                    name: head.name,
                    isContinued: index == 0 && list != nil,
                    isList: head.isList,
                    range: head.start..<stop
                )
            }
        }
    }
}
