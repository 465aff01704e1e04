/// First in, first out, without moving the others; now and then one from the middle.
struct RequestQueue<Element> {
    private var elements: ContiguousArray<Element?> = []
    private var head = 0

    var count: Int { elements.count - head }
    var isEmpty: Bool { count == 0 }

    subscript(index: Int) -> Element {
        get {
            guard let element = elements[head + index] else { preconditionFailure("a place that was left") }
            return element
        }
        set { elements[head + index] = newValue }
    }

    mutating func append(_ element: Element) { elements.append(element) }

    mutating func remove(at index: Int) -> Element {
        let element = self[index]
        if index == 0 {
            elements[head] = nil
            head += 1
            if head == elements.count {
                removeAll(keepingCapacity: elements.capacity <= 64)
            } else if head > elements.count / 2 {
                elements.removeFirst(head)
                head = 0
            }
        } else {
            elements.remove(at: head + index)
        }
        return element
    }

    mutating func popFirst() -> Element? { isEmpty ? nil : remove(at: 0) }

    mutating func removeAll(keepingCapacity: Bool = false) {
        elements.removeAll(keepingCapacity: keepingCapacity)
        head = 0
    }
}
