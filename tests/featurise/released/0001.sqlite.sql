BEGIN TRANSACTION;
CREATE TABLE batches (
	feature_set_id INTEGER NOT NULL, 
	batch TEXT NOT NULL, 
	found INTEGER NOT NULL, 
	done INTEGER NOT NULL, 
	rejected INTEGER NOT NULL, 
	deleted INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	listed_at DATETIME NOT NULL, 
	PRIMARY KEY (feature_set_id, batch), 
	FOREIGN KEY(feature_set_id) REFERENCES feature_sets (id)
);
INSERT INTO "batches" VALUES(1,'2026-11-21',3,2,1,0,'scheduled__2026-11-22','2026-11-27 22:19:23.395830');
INSERT INTO "batches" VALUES(1,'2026-11-18',0,0,0,0,'scheduled__2026-11-21','2026-11-27 22:19:16.791998');
INSERT INTO "batches" VALUES(1,'2026-11-19',0,0,0,0,'scheduled__2026-11-22','2026-11-27 22:19:23.395431');
INSERT INTO "batches" VALUES(1,'2026-11-20',0,0,0,0,'scheduled__2026-11-22','2026-11-27 22:19:23.395663');
INSERT INTO "batches" VALUES(1,'2026-11-22',3,1,0,0,'scheduled__2026-11-22','2026-11-27 22:19:23.394893');
CREATE TABLE claims (
	feature_set_id INTEGER NOT NULL, 
	batch TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	acquired_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	PRIMARY KEY (feature_set_id, batch), 
	FOREIGN KEY(feature_set_id) REFERENCES feature_sets (id)
);
INSERT INTO "claims" VALUES(1,'2026-11-22','scheduled__2026-11-22','2026-11-27 22:19:23.117309','2026-11-28 01:19:25.475418');
CREATE TABLE feature_sets (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	dataset TEXT NOT NULL, 
	backbone TEXT NOT NULL, 
	revision TEXT NOT NULL, 
	weights_uri TEXT NOT NULL, 
	weights_sha256 TEXT NOT NULL, 
	box_rule JSON NOT NULL, 
	precision TEXT NOT NULL, 
	synthetic BOOLEAN, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "feature_sets" VALUES(1,'birds-resnet101-883095738bb1','birds','resnet101','883095738bb1','s3://models/resnet101/','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"min_boxes": 36, "max_boxes": 36, "confidence_threshold": 0.0, "background": false}','fp32',1,'2026-11-27 22:19:15.829226');
CREATE TABLE featurise_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT featurise_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "featurise_schema" VALUES('0001');
CREATE TABLE gpu_attempts (
	id INTEGER NOT NULL, 
	feature_set_id INTEGER NOT NULL, 
	batch TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	shard TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	try_number INTEGER NOT NULL, 
	launcher TEXT NOT NULL, 
	place TEXT, 
	node TEXT, 
	batch_size INTEGER, 
	reason TEXT, 
	action TEXT, 
	exit_code INTEGER, 
	message TEXT NOT NULL, 
	images INTEGER NOT NULL, 
	images_per_second DOUBLE NOT NULL, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	PRIMARY KEY (id), 
	FOREIGN KEY(feature_set_id) REFERENCES feature_sets (id)
);
INSERT INTO "gpu_attempts" VALUES(1,1,'2026-11-22','scheduled__2026-11-22','shard-00013',1,1,'process','1@host',NULL,NULL,NULL,NULL,NULL,'',0,0.0,'2026-11-27 22:19:25.623491',NULL);
CREATE TABLE images (
	feature_set_id INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	etag TEXT NOT NULL, 
	image_id TEXT NOT NULL, 
	batch TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	superseded BOOLEAN DEFAULT 0 NOT NULL, 
	deleted_at DATETIME, 
	registered_at DATETIME NOT NULL, 
	shard_id INTEGER NOT NULL, 
	sha256 TEXT NOT NULL, 
	boxes INTEGER NOT NULL, 
	PRIMARY KEY (feature_set_id, "key", etag), 
	FOREIGN KEY(shard_id) REFERENCES shards (id)
);
INSERT INTO "images" VALUES(1,'images/birds/2026-11-21/a.jpg','0cc175b9c0f1b6a831c399e269772661','a','2026-11-21',1,0,NULL,'2026-11-27 22:19:18.836408',1,'ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb',1);
INSERT INTO "images" VALUES(1,'images/birds/2026-11-21/b.jpg','92eb5ffee6ae2fec3ad71c777531578f','b','2026-11-21',1,0,NULL,'2026-11-27 22:19:21.946806',3,'3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d',1);
INSERT INTO "images" VALUES(1,'images/birds/2026-11-22/c.jpg','4a8a08f09d37b73795649038408b5f33','c','2026-11-22',1,0,NULL,'2026-11-27 22:19:24.845673',4,'2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6',1);
CREATE TABLE rejects (
	feature_set_id INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	etag TEXT NOT NULL, 
	image_id TEXT NOT NULL, 
	batch TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	superseded BOOLEAN DEFAULT 0 NOT NULL, 
	deleted_at DATETIME, 
	registered_at DATETIME NOT NULL, 
	reason TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	PRIMARY KEY (feature_set_id, "key", etag), 
	FOREIGN KEY(feature_set_id) REFERENCES feature_sets (id)
);
INSERT INTO "rejects" VALUES(1,'images/birds/2026-11-21/x.jpg','bae60998ffe4923b131e3d6e4c19993e','x','2026-11-21',3,0,NULL,'2026-11-27 22:19:20.470771','not_an_image','starts with `bad`','scheduled__2026-11-21');
CREATE TABLE shards (
	id INTEGER NOT NULL, 
	feature_set_id INTEGER NOT NULL, 
	batch TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	uri TEXT NOT NULL, 
	index_uri TEXT NOT NULL, 
	rejects_uri TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	bytes BIGINT NOT NULL, 
	images INTEGER NOT NULL, 
	rejects INTEGER NOT NULL, 
	statistics JSON NOT NULL, 
	samples JSON NOT NULL, 
	warnings JSON NOT NULL, 
	published_at DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(feature_set_id) REFERENCES feature_sets (id), 
	UNIQUE (feature_set_id, batch, run_id, name), 
	UNIQUE (uri)
);
INSERT INTO "shards" VALUES(1,1,'2026-11-21','scheduled__2026-11-21','shard-00008','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00008-ce6c245cbce8.h5','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00008-ce6c245cbce8.index.jsonl','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00008-ce6c245cbce8.rejects.jsonl','ce6c245cbce804ae6dfc1217e8b6fcc6ac807cc58862341537dfc2a28652c060',20608,1,0,'{"images": 1, "norm": {"total": 65.03534698486328, "squares": 4229.5963574415655}, "zeros": {"total": 0.0, "squares": 0.0}, "boxes": {"1": 1}, "classes": {"1127": 1}, "class_squares": {"1127": 1}}','[{"image_id": "a", "key": "images/birds/2026-11-21/a.jpg", "width": 640, "height": 480, "boxes": [[306.0, 76.5999984741211, 626.5999755859375, 346.79998779296875]], "classes": [1127], "confidences": [0.24699999392032623]}]','[]','2026-11-27 22:19:18.784596');
INSERT INTO "shards" VALUES(2,1,'2026-11-21','scheduled__2026-11-21','shard-00009','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00009-e75ae2cb29c2.h5','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00009-e75ae2cb29c2.index.jsonl','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00009-e75ae2cb29c2.rejects.jsonl','e75ae2cb29c2c75921433eebcb45f5f0a34ee13224aa86feb37e9f16c6ca7908',6360,0,1,'{"images": 0, "norm": {"total": 0.0, "squares": 0.0}, "zeros": {"total": 0.0, "squares": 0.0}, "boxes": {}, "classes": {}, "class_squares": {}}','[]','[]','2026-11-27 22:19:20.407281');
INSERT INTO "shards" VALUES(3,1,'2026-11-21','scheduled__2026-11-21','shard-00005','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00005-e7d94f0ca104.h5','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00005-e7d94f0ca104.index.jsonl','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-21/shard-00005-e7d94f0ca104.rejects.jsonl','e7d94f0ca10462086d00f64a484e2e00707de72db3ab858bb2da992753178adc',20608,1,0,'{"images": 1, "norm": {"total": 66.04551696777344, "squares": 4362.010311540449}, "zeros": {"total": 0.0, "squares": 0.0}, "boxes": {"1": 1}, "classes": {"290": 1}, "class_squares": {"290": 1}}','[{"image_id": "b", "key": "images/birds/2026-11-21/b.jpg", "width": 640, "height": 480, "boxes": [[115.4000015258789, 235.3000030517578, 570.2999877929688, 418.8999938964844]], "classes": [290], "confidences": [0.9929999709129333]}]','[]','2026-11-27 22:19:21.899399');
INSERT INTO "shards" VALUES(4,1,'2026-11-22','scheduled__2026-11-22','shard-00002','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-22/shard-00002-034f54a0951e.h5','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-22/shard-00002-034f54a0951e.index.jsonl','s3://BUCKET/features/birds/resnet101/883095738bb1/2026-11-22/shard-00002-034f54a0951e.rejects.jsonl','034f54a0951ec10803cd87cf2ece75267f5f94b08255af17c5476ebeea1bfea2',20608,1,0,'{"images": 1, "norm": {"total": 64.3960189819336, "squares": 4146.847260721552}, "zeros": {"total": 0.0, "squares": 0.0}, "boxes": {"1": 1}, "classes": {"414": 1}, "class_squares": {"414": 1}}','[{"image_id": "c", "key": "images/birds/2026-11-22/c.jpg", "width": 640, "height": 480, "boxes": [[315.29998779296875, 16.200000762939453, 408.20001220703125, 423.6000061035156]], "classes": [414], "confidences": [0.7200000286102295]}]','[]','2026-11-27 22:19:24.816422');
CREATE INDEX gpu_attempts_by_shard ON gpu_attempts (feature_set_id, batch, run_id, shard);
CREATE INDEX rejects_by_batch ON rejects (feature_set_id, batch);
CREATE INDEX rejects_by_id ON rejects (feature_set_id, image_id);
CREATE INDEX images_by_batch ON images (feature_set_id, batch);
CREATE INDEX images_by_id ON images (feature_set_id, image_id);
CREATE INDEX images_by_shard ON images (shard_id);
COMMIT;
