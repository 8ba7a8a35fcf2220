// Command tlog checks tlog-proof@v1 files with golang.org/x/mod alone, so that the
// gateway's receipts are held against code that shares nothing with it.
//
//	tlog VKEY PROOF LEAF [PROOF LEAF ...]
//	tlog grown VKEY OLDER NEWER HASHES [OLDER NEWER HASHES ...]
//	tlog cosigned VKEY WITNESS NOTE [NOTE ...]
//	tlog tiles VKEY URL
//
// It prints "ok" or "rejected: why" for each and exits 1 if any was rejected. The second form holds
// consistency proofs (hashes in base64, one a line) between two checkpoints, the third cosignatures
// of a witness (c2sp.org/tlog-cosignature). The fourth reads a whole published log (c2sp.org/tlog-tiles)
// and proves every entry of it.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A head is what a checkpoint says.
type head struct {
	size int64
	root tlog.Hash
}

func readHead(verifiers note.Verifiers, origin string, signed []byte) (head, error) {
	checkpoint, err := note.Open(signed, verifiers)
	if err != nil {
		return head{}, err
	}
	body := strings.Split(checkpoint.Text, "\n")
	if len(body) != 4 || body[0] != origin {
		return head{}, errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(body[1], 10, 64)
	if err != nil {
		return head{}, err
	}
	root, err := tlog.ParseHash(body[2])
	return head{size, root}, err
}

func readHashes(lines []string) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}

func included(verifier note.Verifier, proof, leaf []byte) error {
	text, signed, found := bytes.Cut(proof, []byte("\n\n"))
	lines := strings.Split(string(text), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("not a proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	path, err := readHashes(lines[2:])
	if err != nil {
		return err
	}
	at, err := readHead(note.VerifierList(verifier), verifier.Name(), signed)
	if err != nil {
		return err
	}
	hash := tlog.Hash(sha256.Sum256(append([]byte{0}, leaf...)))
	return tlog.CheckRecord(path, at.size, at.root, index, hash)
}

func grown(verifier note.Verifier, older, newer, proof []byte) error {
	before, err := readHead(note.VerifierList(verifier), verifier.Name(), older)
	if err != nil {
		return err
	}
	after, err := readHead(note.VerifierList(verifier), verifier.Name(), newer)
	if err != nil {
		return err
	}
	path, err := readHashes(strings.Fields(string(proof)))
	if err != nil {
		return err
	}
	return tlog.CheckTree(path, after.size, after.root, before.size, before.root)
}

// A witness is a note.Verifier of cosignature/v1.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func newWitness(vkey string) (*witness, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("not a vkey")
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != 4 {
		return nil, errors.New("not the vkey of a witness")
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	if fmt.Sprintf("%x", sum[:4]) != parts[1] {
		return nil, errors.New("the key id is another")
	}
	return &witness{parts[0], binary.BigEndian.Uint32(sum[:4]), key[1:]}, nil
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }
func (w *witness) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	seen := binary.BigEndian.Uint64(signature)
	signed := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", seen, text)
	return ed25519.Verify(w.key, signed, signature[8:])
}

func cosigned(log note.Verifier, by *witness, signed []byte) error {
	if _, err := readHead(note.VerifierList(log), log.Name(), signed); err != nil {
		return err
	}
	_, err := note.Open(signed, note.VerifierList(by))
	return err
}

// A published log is a tlog.TileReader. Paths are those of c2sp.org/tlog-tiles, without the height.
type published struct {
	url  string
	seen map[string][]byte
}

func (p published) get(path string) ([]byte, error) {
	if data, found := p.seen[path]; found {
		return data, nil
	}
	answer, err := http.Get(p.url + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	data, err := io.ReadAll(answer.Body)
	p.seen[path] = data
	return data, err
}

func (p published) Height() int                     { return 8 }
func (p published) SaveTiles([]tlog.Tile, [][]byte) {}
func (p published) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := p.get(strings.Replace(path, "/data/", "/entries/", 1))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func everyEntry(verifier note.Verifier, url string) (int64, error) {
	log := published{strings.TrimSuffix(url, "/") + "/", map[string][]byte{}}
	signed, err := log.get("checkpoint")
	if err != nil {
		return 0, err
	}
	at, err := readHead(note.VerifierList(verifier), verifier.Name(), signed)
	if err != nil {
		return 0, err
	}
	hashes := tlog.TileHashReader(tlog.Tree{N: at.size, Hash: at.root}, log)
	for first := int64(0); first < at.size; first += 256 {
		width := min(256, at.size-first)
		data, err := log.ReadTiles([]tlog.Tile{{H: 8, L: -1, N: first / 256, W: int(width)}})
		if err != nil {
			return 0, err
		}
		rest := data[0]
		for i := range width {
			if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
				return 0, errors.New("an entry is cut")
			}
			length := int(binary.BigEndian.Uint16(rest))
			leaf := tlog.RecordHash(rest[2 : 2+length])
			rest = rest[2+length:]
			proof, err := tlog.ProveRecord(at.size, first+i, hashes)
			if err != nil {
				return 0, err
			}
			if err := tlog.CheckRecord(proof, at.size, at.root, first+i, leaf); err != nil {
				return 0, err
			}
		}
		if len(rest) != 0 {
			return 0, errors.New("more than its entries")
		}
	}
	return at.size, nil
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "tiles" {
		verifier, err := note.NewVerifier(os.Args[2])
		if err != nil {
			fatal(err)
		}
		count, err := everyEntry(verifier, os.Args[3])
		if err != nil {
			fmt.Println("rejected:", err)
			os.Exit(1)
		}
		fmt.Println("ok:", count)
		return
	}
	arguments, form := os.Args[1:], "included"
	if len(arguments) > 0 && (arguments[0] == "grown" || arguments[0] == "cosigned") {
		form, arguments = arguments[0], arguments[1:]
	}
	width := map[string]int{"included": 2, "grown": 3, "cosigned": 1}[form]
	if len(arguments) == 0 {
		fatal(errors.New("usage: tlog [grown|cosigned] VKEY FILE..."))
	}
	verifier, err := note.NewVerifier(arguments[0])
	if err != nil {
		fatal(err)
	}
	files := arguments[1:]
	var by *witness
	if form == "cosigned" && len(files) > 0 {
		if by, err = newWitness(files[0]); err != nil {
			fatal(err)
		}
		files = files[1:]
	}
	if len(files) == 0 || len(files)%width != 0 {
		fatal(errors.New("usage: tlog [grown|cosigned] VKEY FILE..."))
	}
	code := 0
	for i := 0; i < len(files); i += width {
		var parts [3][]byte
		for j := range width {
			if parts[j], err = os.ReadFile(files[i+j]); err != nil {
				fatal(err)
			}
		}
		switch form {
		case "included":
			err = included(verifier, parts[0], parts[1])
		case "grown":
			err = grown(verifier, parts[0], parts[1], parts[2])
		case "cosigned":
			err = cosigned(verifier, by, parts[0])
		}
		if err != nil {
			fmt.Println("rejected:", err)
			code = 1
			continue
		}
		fmt.Println("ok")
	}
	os.Exit(code)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}
