// Command tlog checks tlog-proof@v1 files with golang.org/x/mod alone, so that the
// gateway's receipts are held against code that shares nothing with it.
//
//	tlog VKEY PROOF LEAF [PROOF LEAF ...]
//
// It prints "ok" or "rejected: why" for each pair and exits 1 if any was rejected.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func check(verifier note.Verifier, proof, leaf []byte) error {
	head, signed, found := bytes.Cut(proof, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("not a proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	var path tlog.RecordProof
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		path = append(path, hash)
	}
	checkpoint, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return err
	}
	body := strings.Split(checkpoint.Text, "\n")
	if len(body) != 4 || body[0] != verifier.Name() {
		return errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(body[1], 10, 64)
	if err != nil {
		return err
	}
	root, err := tlog.ParseHash(body[2])
	if err != nil {
		return err
	}
	hash := tlog.Hash(sha256.Sum256(append([]byte{0}, leaf...)))
	return tlog.CheckRecord(path, size, root, index, hash)
}

func main() {
	if len(os.Args) < 4 || len(os.Args)%2 != 0 {
		fmt.Fprintln(os.Stderr, "usage: tlog VKEY PROOF LEAF [PROOF LEAF ...]")
		os.Exit(2)
	}
	verifier, err := note.NewVerifier(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := 0
	for i := 2; i < len(os.Args); i += 2 {
		proof, err := os.ReadFile(os.Args[i])
		if err == nil {
			var leaf []byte
			if leaf, err = os.ReadFile(os.Args[i+1]); err == nil {
				err = check(verifier, proof, leaf)
			}
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
